"""Transfer learning with few trained weights: adapters through peft, one file a family, and frozen parameters."""
