"""What others wrote down about names: synonyms, senses, descriptions; read from local files, never downloaded."""
