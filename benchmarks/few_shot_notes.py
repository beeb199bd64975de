"""How rows of the few-shot table differ from their papers, for the document; by row."""

NOTES = {
    "maml": "The network is the paper's; episodes and outer training are as said above.",
    "maml-further": "The control of learned-gated-lstm: it begins with the same MAML, takes as "
    "many outer steps in the same way, and keeps the inner rate.",
    "maml-negative-rate": "Each inner step ascends the support loss, and in so short a training no "
    "start was found from which that helps: it is worse than guessing.",
    "joint": "A class may have any place in an episode, so that before the first inner step there "
    "is nothing to learn but guessing, and no inner step is trained for.",
    "reptile": "In the released code the network's 2 x 2 maps are flattened, here their mean is "
    "taken, as in MAML's; the inner Adam's second moments outlast the task, here each episode "
    "begins without any, so that its first step is the sign of the gradient; and mini-batches go "
    "through the support set in turn, here they are drawn independently.",
    "reptile-serial": "As reptile.",
    "reptile-sgd": "As reptile, but for Adam.",
    "anil": "The figures are means over three seeds. It is trained in five steps at MAML's rate.",
    "imaml": "The figures are those of gradient descent inside.",
    "meta-sgd": "Trained and tested in one step, as there.",
    "layer-step-rates": "The rates are one part of MAML++; the figures are of all of it.",
    "meta-lstm": "The paper has no figures on Omniglot; its network has 32 filters and pools.",
    "learned-gated-lstm": "Without units: its gates read gradient, loss and parameter themselves.",
    "reptile-lstm": "The rule is bundled, and was meta-trained on digits as an optimizer.",
    "r2d2": "The paper's figures on Omniglot could not be looked up.",
    "metaoptnet": "The paper has no figures on Omniglot; its network is a ResNet-12.",
    "siamese": "Trained on the pairs of episodes.",
    "matching": "Without full context embeddings; the paper's network pools.",
    "prototypical": "Here trained on as many classes as it is tested on, there on 60; there tested "
    "with running averages, so not transductive; the paper's network pools.",
    "relation": "The paper's network pools, and compares 5 x 5 maps, here 2 x 2; support and query "
    "images are normalised apart there, together here. Where it is at chance it has fallen into "
    "calling no pair related, which squared error nearly allows: of 20 pairs 19 are not.",
}
