"""A row of a store of record, and what a batch makes of it, whatever keeps the rows. Pure, no I/O."""
