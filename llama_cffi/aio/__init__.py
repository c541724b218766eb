"""The asyncio face: one model for many coroutines, on any number of event loops."""
