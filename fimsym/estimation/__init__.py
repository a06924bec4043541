"""What is random: estimators of the Fisher diagonal, their standard errors, and plans."""
