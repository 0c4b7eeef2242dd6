"""Measures trained models and exact algorithms side by side: tables, figures, TensorBoard runs."""

from zoo.commands.evaluate import main

if __name__ == "__main__":
    main()
