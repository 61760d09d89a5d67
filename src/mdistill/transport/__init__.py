"""Transport properties of runs at several temperatures: values, tables, figures, notes."""
