"""The paper's method: encoder, memory bank, objectives and training step."""
