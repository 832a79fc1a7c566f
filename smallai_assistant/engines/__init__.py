"""What runs models: one file per engine, all of the shape in `base.py`."""
