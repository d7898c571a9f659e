"""What the four programs of instruction backtranslation share."""
