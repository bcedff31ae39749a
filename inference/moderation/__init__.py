"""What a text may be: OpenAI's categories of harm, judged by rules and a sentence encoder."""
