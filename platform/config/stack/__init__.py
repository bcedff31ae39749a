"""The supervisor behind `make run`: servers, preparation, processes, and the way down again."""
