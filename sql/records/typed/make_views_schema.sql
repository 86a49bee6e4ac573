create schema {views}
