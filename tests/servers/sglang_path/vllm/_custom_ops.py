"""SGLang imports this kernel on a CPU without AMX, and then rotates with torch."""

rotary_embedding = None
