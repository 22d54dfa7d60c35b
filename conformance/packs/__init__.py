"""Packs: questions and answers of a level as plain files, which test suites in any language keep beside their code."""
