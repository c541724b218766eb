"""Messages to tokens: chat templates, tools, fill-in-the-middle, pairs of query and document."""
