"""A page in the browser where a person drives a world model, with the simulator beside it on the same actions."""
