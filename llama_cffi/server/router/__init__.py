"""Several models behind one server: a process for each, and a parent that relays requests and loads no model."""
