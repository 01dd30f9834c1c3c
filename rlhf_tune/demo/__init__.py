"""The main job: tune a small network on handwritten digits under an FGSM constraint.

`job` runs the study and the final measurement, `report` and `plot` write them down; the networks
are one thin module per framework, `keras_cnn` and `torch_cnn`.
"""
