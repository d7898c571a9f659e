"""How the companions read files: records of JSON, CSV and Parquet, and rows of datasets."""
