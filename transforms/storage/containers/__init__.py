"""Files that hold pictures: archives, tables and files of records, see `base` and `registry`."""
