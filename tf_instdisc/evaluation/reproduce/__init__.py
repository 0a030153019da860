"""The paper's tables: trains their runs, measures them and shows them."""
