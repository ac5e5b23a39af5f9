"""A cohort to tensors and back: scalers, blocks and likelihood heads shared by all generators."""
