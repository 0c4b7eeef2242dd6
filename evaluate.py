"""Measures trained models and exact algorithms side by side: tables, figures, TensorBoard runs."""

from zoo.commands.door import enter

if __name__ == "__main__":
    enter("evaluate")
