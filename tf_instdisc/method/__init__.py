"""The paper's method: encoder, memory bank, objectives and train step."""
