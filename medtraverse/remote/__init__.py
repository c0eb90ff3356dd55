"""Speaks to a ComfyUI server: reads workflows, sets inputs by name, queues, follows and fetches runs."""
