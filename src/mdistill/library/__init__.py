"""Ready students: files of the package and of the user, each with a card that says what it is and what it passed."""
