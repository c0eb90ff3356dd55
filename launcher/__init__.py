"""Prepares an environment and starts ComfyUI in it; standard library only."""
