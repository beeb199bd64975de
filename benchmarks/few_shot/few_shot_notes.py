"""How rows of the few-shot table differ from their papers, for the document; by row."""

NOTES = {
    "maml": "The network is the paper's; episodes and outer training are as said above.",
    "maml-further": "The control of learned-gated-lstm: it begins with the same MAML, takes as "
    "many outer steps in the same way (first order, through five inner steps), and keeps the inner "
    "rate.",
    "maml-negative-rate": "Each inner step ascends the support loss, and in so short a training no "
    "start was found from which that helps: it is worse than guessing.",
    "joint": "A class may have any place in an episode, so that before the first inner step there "
    "is nothing to learn but guessing, and no inner step is trained for.",
    "reptile": "In the released code the network's 2 x 2 maps are flattened, here their mean is "
    "taken, as in MAML's; the inner Adam's second moments outlast the task, here each episode "
    "begins without any, so that its first step is the sign of the gradient; mini-batches go "
    "through the support set in turn, here they are drawn independently; and its transductive "
    "figures normalise one query image of each class together, here five. A file of it adapts on "
    "the whole support set in every step, where at 5 shots the row was tested on 10 images "
    "(20-way: 20) a step: give `adapt` a loader of such batches for the same.",
    "reptile-serial": "As reptile.",
    "reptile-sgd": "As reptile, but for Adam.",
    "anil": "The figures are means over three seeds. It is trained in five steps at MAML's rate.",
    "imaml": "The figures are those of gradient descent inside. The released code flattens the "
    "2 x 2 maps, takes its 16 steps without the pull towards the start and then one with it, damps "
    "the matrix of the conjugate gradient, and leaves the pull out in testing; here it is part of "
    "every step, in training and in testing.",
    "meta-sgd": "TrainedMethod and tested in one step, as there.",
    "layer-step-rates": "The rates are one part of MAML++; the figures are of all of it.",
    "meta-lstm": "The paper has no figures on Omniglot; its network has 32 filters and pools. Its "
    "running averages of batch statistics begin anew with every episode; here query images are "
    "normalised by those of the support set in the last step alone. Its cells were measured when "
    "that took the unbiased variance, at most 20/19 of what the support set was normalised by.",
    "learned-gated-lstm": "Without units: its gates read gradient, loss and parameter themselves. "
    "TrainedMethod, as the other learned-* rows, in first order through five inner steps.",
    "reptile-lstm": "The rule is bundled, and was meta-trained on digits as an optimizer.",
    "r2d2": "The paper's figures on Omniglot could not be looked up. The released code solves for "
    "a bias, too, scales the ridge with the number of support images, begins with larger scores, "
    "and trains on more ways than it is tested on.",
    "metaoptnet": "The paper has no figures on Omniglot; its network is a ResNet-12, and it trains "
    "with more shots than it is tested on, label smoothing and Nesterov's momentum.",
    "siamese": "TrainedMethod on the pairs of episodes.",
    "matching": "Without full context embeddings; the paper's network pools.",
    "prototypical": "Here trained on as many classes as it is tested on, there on 60; there tested "
    "with running averages, so not transductive; the paper's network pools.",
    "relation": "The paper's network pools, and compares 5 x 5 maps, here 2 x 2; support and query "
    "images are normalised apart there, together here. Where it is at chance it has fallen into "
    "calling no pair related, which squared error nearly allows: of 20 pairs 19 are not.",
}
