"""Which nodes go into engines: the role of each, segments cut by levels, and engine calls stitched into the graph."""
