"""How right an answer is: its error in units, its verdict, its grade."""
