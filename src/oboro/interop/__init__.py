"""Published weights and formats become ours here and nowhere else, and ours theirs: diffusers folders, LDM files, ONNX.

Nothing here imports diffusers. What a file says is read as data: JSON, safetensors, ``torch.load(weights_only=True)``.
"""
