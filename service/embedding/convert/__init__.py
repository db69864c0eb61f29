"""Turning published weights into the serving form: one ONNX file, run without torch."""
