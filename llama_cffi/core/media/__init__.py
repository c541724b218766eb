"""Images and sound: values, what a projector makes of them, and the projector."""
