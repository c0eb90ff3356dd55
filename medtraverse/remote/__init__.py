"""Speaks to a ComfyUI server: workflows into API format, inputs set by name,
runs queued, followed and fetched.
"""
