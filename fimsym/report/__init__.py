"""What people see: progress, tables, plots and pages, drawn from plain data."""
