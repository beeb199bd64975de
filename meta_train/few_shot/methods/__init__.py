"""The few-shot methods by name, and the settings that each one is made of."""
