# SPDX-License-Identifier: Apache-2.0
"""Prompt number i of the corpus: always the same one.

Topics are names of groups of things: a story keeps to one, so that its words tell which it is.
"""
import random

TOPICS = {
    "sea": ("a lighthouse keeper", "a fisherman", "a young sailor", "a crab", "a dolphin", "a girl who lives on an island"),
    "farm": ("a farmer", "an old horse", "a small hen", "a boy who looks after sheep", "a cow", "a farm cat"),
    "forest": ("a squirrel", "a young fox", "an old owl", "a woodcutter", "a lost bear cub", "a girl who collects mushrooms"),
    "kitchen": ("a baker", "a young cook", "a grandmother", "a hungry mouse", "a boy who loves soup", "a waiter"),
    "space": ("an astronaut", "a lonely robot", "a child who watches the stars", "a small alien", "an engineer", "a space cat"),
    "school": ("a teacher", "a new pupil", "two best friends", "a shy girl", "a boy who forgets everything", "a librarian"),
    "castle": ("a princess", "a young knight", "a friendly dragon", "a king", "a cook in a castle", "a little witch"),
    "town": ("a postman", "a bus driver", "a clock maker", "a stray dog", "a street musician", "a girl with a red bicycle"),
    "garden": ("a gardener", "a snail", "a bee", "a boy who plants a tree", "a butterfly", "a neighbour"),
    "winter": ("a snowman", "a girl with skates", "a penguin", "a boy with a sledge", "a white rabbit", "an old man with a lantern"),
    "workshop": ("a carpenter", "an inventor", "a mechanic", "a girl who repairs toys", "a toy train", "an apprentice"),
    "music": ("a violin player", "a drummer", "a singing bird", "a girl who learns the piano", "a shy singer", "an old guitar maker"),
}
WORDS = (
    "apple basket bell blanket boat bottle box bread bridge brush bucket button cake candle carrot chair clock cloud coat "
    "coin cup door drum egg envelope feather fence flag flower gate glove hammer hat hill honey house jar key kite ladder "
    "lamp leaf letter map mirror moon mountain nest paint paper path pencil picture pillow pocket puddle rain ring river "
    "road rope rose seed shadow shell shoe soup spoon star stone storm string sun table tent ticket towel tower train tree "
    "umbrella wagon wall wheel whistle window wind"
).split()
VERBS = (
    "ask borrow break build carry catch choose clean climb count cross dance dig draw dream fall find fix float fly follow "
    "forget give grow hear help hide hold invite jump knock laugh lead learn lift listen lose meet mix open paint plant "
    "promise pull push race remember repair ride run save search share shout sing sleep smile solve swim teach thank throw "
    "travel try turn visit wait wake walk wash watch whisper wish wonder"
).split()
STYLES = (
    "It has a happy ending.", "It is a little sad, but ends well.", "It is funny.", "It contains a short dialogue.",
    "Something is lost and found again.", "Someone makes a mistake and says sorry.", "It happens in one day.",
    "It teaches to be patient.", "It is about friendship.", "It is a small mystery.", "Someone is brave.",
    "It ends with a surprise.", "Two of them disagree at first.", "It begins in the morning.", "It happens at night.",
)
OPENINGS = (
    "Once upon a time, there was", "Once there was", "One morning,", "One day,", "There was once", "A long time ago,",
    "In a small house lived", "It was a sunny day.", "Every day,", "One evening,", "On a cold day,", "Early in the morning,",
)
QUESTIONS = (
    "Explain to a child why {}. Use short, simple sentences.", "Explain in a few simple words why {}.",
)
FACTS = {
    "sea": ("the sea is salty", "there are tides", "ships float", "fish can breathe under water", "lighthouses are built"),
    "farm": ("cows give milk", "farmers plant in spring", "bread is made from wheat", "sheep are shorn", "horses wear shoes"),
    "forest": ("leaves change colour in autumn", "owls fly at night", "trees have rings", "squirrels hide nuts", "mushrooms grow after rain"),
    "kitchen": ("bread rises", "water boils", "we cook food", "onions make us cry", "food goes bad"),
    "space": ("the moon changes its shape", "stars shine", "there is day and night", "astronauts float", "we have seasons"),
    "school": ("we learn to read", "we need sleep to learn", "libraries lend books", "we use numbers", "maps are useful"),
    "castle": ("castles had thick walls", "knights wore armour", "castles stood on hills", "there was a moat", "kings wore crowns"),
    "town": ("traffic lights have three colours", "bridges do not fall down", "letters have stamps", "towns have clocks", "cities need parks"),
    "garden": ("bees visit flowers", "plants need light", "worms are good for the soil", "snails have shells", "fruit is sweet"),
    "winter": ("snow is white", "ice is slippery", "birds fly south", "rabbits change their fur", "we see our breath when it is cold"),
    "workshop": ("wheels are round", "magnets stick", "metal gets hot", "a lever helps us to lift things", "we measure before we cut"),
    "music": ("strings make sounds", "drums are loud", "we tap our feet to music", "an echo comes back", "some notes are high and some low"),
}
MOST_TOKENS = 230


def prompt(number):
    """(topic, what is asked, how the answer begins)"""
    rng = random.Random(number)
    topic = rng.choice(sorted(TOPICS))
    if rng.random() < 0.12:
        return topic, rng.choice(QUESTIONS).format(rng.choice(FACTS[topic])), ""
    return topic, (f"Write a short story for small children about {rng.choice(TOPICS[topic])} ({topic}). Use short, simple "
                   f"sentences and the words \"{rng.choice(WORDS)}\" and \"{rng.choice(VERBS)}\". {rng.choice(STYLES)}"), \
        rng.choice(OPENINGS)
