"""Read and check data: ratings tables, splits, interaction logs."""
