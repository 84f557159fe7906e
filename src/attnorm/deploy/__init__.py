"""Finished networks for other programs: ONNX files and torch.export archives, checked against the network itself."""
