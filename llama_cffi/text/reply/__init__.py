"""What a model's reply consists of: reasoning, text and tool calls, in the format that the model was trained on."""
