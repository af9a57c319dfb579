"""The rules that ship with `rewrites`, one family a file. Every rule defined here is found by `rewrites.registry`."""
