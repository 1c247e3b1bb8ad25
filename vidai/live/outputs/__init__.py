"""One module a kind of output: `Options` and `open`, see vidai.live.output."""
