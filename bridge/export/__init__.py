"""From a segment of a TorchScript graph to an ONNX graph that remembers where every node came from."""

from bridge.export.export import Exported, export

__all__ = ["Exported", "export"]
