"""Measuring tokenizers: `runner.run` makes the numbers, `table.print_table` and `report.write` show them."""
