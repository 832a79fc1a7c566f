"""The parts of `bench.fuzz`: mutations of inputs, the doors that take them, and the process that tries them."""
