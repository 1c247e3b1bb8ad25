"""The devices, one module or package each, found by name (see vidai.device.open_device)."""
