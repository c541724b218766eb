"""Plots of the stories that the demo model is trained on.

A plot is a theme, the heroes it fits, its own slots and its beats. In a text, ``[a|b]`` is a choice (it nests),
``{slot}`` a slot, ``{Slot}`` the same with a capital; "a" becomes "an" by itself. A beat is a line; one that starts
with ``?`` is told in half of the stories, and an indented line continues the one above. In the slots,
``"x,y": "1/2|3/4"`` draws one pair and ``"x,y": "1|2|3"`` draws different values. The common slots (names, pronouns,
toys, places) come from ``demo_stories.world``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Plot:
    """One story line: what it is about, who may live it ("any", "child", "animal" or one kind), and its beats."""

    theme: str
    beats: str
    slots: Mapping[str, str] = field(default_factory=dict)
    hero: str = "any"


SPOTS = (
    "under the bed|behind the sofa|in the kitchen|behind the door|in the big box|under the table|"
    "in the tall grass|behind the old tree|near the gate|under the bench"
)

PLOTS: tuple[Plot, ...] = (
    Plot(
        "a lost {o}",
        """
{n} had a {co}. It was {his} favorite toy, and {he} [took it everywhere|played with it every day].
{day}, {n} could not find the {o}. [{He} felt very sad.|{He} began to cry.|{He} was very worried.]
{He} looked {s1}, but it was not there. {He} looked {s2}, but it was not there [either|too].
"Have you seen my {o}?" {n} asked {e}.
"[No, but I will help you|No, but we can look together|Let us look for it together]," said {e}.
[Together they|Then they both] looked {s3}. [There it was!|There was the {o}!|And there they found the {o}!]
{n} [hugged the {o}|jumped up and down|laughed and clapped]. "Thank you for helping me!" {he} said.
?From that day on, {n} always put the {o} [back in its place|on the shelf|in the toy box] after playing.
""",
        {"s1,s2,s3": SPOTS},
    ),
    Plot(
        "a kite in a tree",
        """
{day}, {n} took {his} {color} kite {to}. The wind was strong, and the kite flew [very high|up, up, up].
Suddenly, the kite got stuck in a tall tree. [{n} pulled the string, but the kite did not move.|"Oh no!" cried
    {n}.]
{He} tried to {try1}, but {he} [could not reach it|was too small]. [{n} wanted to cry.|{He} did not know what to
    do.]
Then {f} came by. "[Do not worry|Do not be sad], {n}. [I have an idea|I can help]," said {f}.
{f} {fix}, and the kite [came down|fell into the soft grass]. "Hooray!" {n} shouted.
They [flew the kite together|took turns with the kite] until the sun went down. {n} was {glad} to have such a
    good friend.
""",
        {
            "try1": "climb the tree|jump up to it|shake the tree|throw a stick at it",
            "fix": "brought a long ladder|found a long stick and pushed the kite|climbed up very carefully|"
            "asked a tall man for help",
        },
    ),
    Plot(
        "getting lost in the forest",
        """
{day}, {n} went for a walk in the forest. {He} followed a {lead}, and {he} walked [very far|farther and
    farther].
When {he} looked around, {he} did not know the way home. [The trees were tall and dark.|It was getting dark.]
{n} was scared. {He} sat down [on a stone|under a tree|on a log] and [called for help|began to cry].
[An|A wise] old {guide} heard {him} and came closer. "[Why are you sad|What is wrong], little one?" [asked|said]
    the {guide}.
"I am lost. I want to go home," said {n}.
"[Come with me|Follow me]. I know [the way|every path in this forest]," said the {guide}.
They walked past {mark1} and over {mark2}. Soon {n} saw {his} home. {E} was waiting [at the door|outside].
{n} thanked the {guide} and ran to {e}. [{He} never walked so far alone again.|"I will never go so far alone
    again," {he} said.]
""",
        {
            "lead": "blue butterfly|little rabbit|pretty bird|yellow butterfly|tiny frog",
            "guide": "owl|deer|bear|turtle|badger",
            "mark1": "the big rock|the tall pine tree|a field of flowers|the old mill",
            "mark2": "a small bridge|the little stream|a green hill|a wooden gate",
        },
    ),
    Plot(
        "learning to share",
        """
{day}, {n} got a {co} from {e}. {He} [was so proud of it|loved it very much|thought it was the best toy in the
    world].
{f} came to visit. "Can I play with your {o} too?" {f} asked.
"No! It is mine!" said {n}, and {he} [held it tight|turned away|ran to the other side of the room].
{f} felt sad and [sat down alone|went to sit under a tree|walked away]. Now {n} had the {o}, but [it was no fun
    to play alone|{he} felt lonely].
[{n} thought about it.|{He} thought for a long time.] [Then|At last] {he} went to {f}.
"I am sorry. [Let us play together|You can play with it too]," said {n}.
{f} smiled, and they played with the {o} all [day|afternoon]. It was [much more fun|twice as much fun] together.
{n} learned that [sharing makes everyone happy|it is good to share|toys are more fun with a friend].
""",
    ),
    Plot(
        "telling the truth",
        """
{day}, {n} was [running|jumping|playing] inside the house. {Crash} {He} [hit|bumped into] the table, and a
    {thing} fell down and broke.
{n} was afraid. "[What will {mom} say|Will {mom} be angry]?" {he} thought. {He} hid the pieces [{s1}].
Soon {e} came in. "[Where is the {thing1}|What happened to the {thing1}]?" {mom} asked.
{n} looked at the floor. {His} heart was beating fast. "I broke it," {he} said. "I am sorry."
{E} [was quiet for a moment|looked at {n}]. "Thank you for telling me the truth," said {e}. "[That was brave|I
    am proud of you]."
Together they [cleaned up the pieces|swept the floor|glued the pieces together]. {n} felt much better.
From that day on, {n} always told the truth [, even when it was hard|, and {he} never ran inside the house
    again|].
""",
        {
            "thing,thing1": "blue vase/vase|pretty plate/plate|old clock/clock|white cup/cup|glass bowl/bowl|lamp/lamp",
            "s1": "under the bed|behind the sofa|in a box|under the rug",
            "crash": "Crash!|Bang!|Oh no!",
        },
        "child",
    ),
    Plot(
        "a little bird that fell from its nest",
        """
{day}, {n} was walking {at} when {he} heard a [small|soft|sad] sound. {He} looked down and saw a tiny bird in
    the grass.
[It had fallen out of its nest.|It had fallen from a tree, and it could not fly.] "[Poor little bird|Do not be
    afraid]," said {n}.
{He} [picked the bird up gently|held the bird very gently] and carried it home in {carry}.
{E} [gave it some water|found some seeds|made a warm bed for it]. Every day, {n} {care}.
After [a week|some days], the little bird was strong [again|]. It [spread its wings|hopped up and down].
"It is time to say goodbye," said {e}. {n} [opened the window|took the bird outside], and the bird flew up into
    the [blue|] sky.
The next morning, {n} heard a song. The little bird was sitting [in the tree|on the fence] and singing [just|]
    for {him}.
""",
        {
            "carry": "{his} hat|a small basket|a little box|{his} hands|a soft scarf",
            "care": "fed the bird and sang to it|gave the bird seeds and water|fed the bird and kept it warm",
        },
    ),
    Plot(
        "being afraid of the dark",
        """
{n} [was not afraid of anything but|was afraid of only one thing:] the dark. Every night, {he} [hid under the
    blanket|asked for a light].
One night, {n} heard a [strange|scary|funny] noise. {noise}! {n} [sat up in bed|pulled the blanket over {his}
    head].
"[{mom}, {mom}|Help]!" {he} called. {E} came in with a little lamp. "[What is it|What is wrong], {n}?"
"There is a monster [outside|under the window|near the window]," {n} [said|whispered].
They [looked together|went to the window together]. It was not a monster at all. It was only {cause}!
{n} began to laugh. "[It is not so scary|I was afraid of nothing]," {he} said.
{E} [kissed {him} good night|showed {him} the stars and the moon]. That night, {n} slept [very|] well, and {he}
    was not afraid of the dark [anymore|again].
""",
        {
            "noise,cause": "Hoo, hoo/an old owl in the tree|Tap, tap, tap/a branch on the window|"
            "Scratch, scratch/a little cat|Whoosh/the wind in the leaves|Drip, drip, drip/the rain on the roof"
        },
    ),
    Plot(
        "learning to ride a bike",
        """
{day}, {n} got a new {color} bike. {He} wanted to ride it right away, but {he} did not know how.
{n} sat on the bike and [pushed|started]. [Bump!|Oh no!|Ouch!] {He} fell [on the grass|on the ground]. "This is
    too hard," {n} said.
"[Do not give up|Try again]," said {e}. "[You will learn it|Everyone falls at first|I will hold the bike for
    you]."
{n} tried again and again. Each time {he} went a little [farther|bit farther]. {E} [ran next to {him}|held the
    bike from behind].
Then, all of a sudden, {n} was riding all alone! "Look at me! [I can do it|I am riding]!" {he} shouted.
{E} clapped and [smiled|cheered]. [The next day|After that], {n} rode {his} bike {to}, and {f} rode [with
    {him}|next to {him}].
{n} was {glad} that {he} did not give up.
""",
        hero="child",
    ),
    Plot(
        "learning to swim",
        """
All {his} friends could swim, but {n} could not. {He} was afraid of the [deep|cold] water.
{day}, {f} said, "Come in, {n}! The water is [nice|warm|lovely]." But {n} [shook {his} head|stayed on the
    sand|only put one foot in].
"[I am scared|I do not want to sink]," {he} said [in a small voice|softly].
"[I will stay with you|I will hold you]," said {f}. [So|Slowly,] {n} took one step, and then another step.
{f} showed {him} how to [kick|float]. {n} splashed and splashed, and [at first|for a while] {he} only [drank a
    lot of water|got very wet].
But {n} tried every day. After [a week|a few days], {he} could swim all the way to {goal}!
"I did it!" {he} cried. {f} was proud of {him}. {n} learned that [brave does not mean never being afraid|trying
    is the first step].
""",
        {"goal": "the big rock|the little island|the other side|the old bridge"},
    ),
    Plot(
        "a tiny seed",
        """
{day}, {e} gave {n} a tiny seed. "[Plant it and take care of it|Put it in the ground], and you will see
    [something wonderful|a surprise]," said {e}.
{n} made a small hole [in the garden|next to the fence|in a pot] and put the seed in it. {He} [gave it
    water|watered it] every day.
[A week went by|Many days went by], but nothing happened. {n} was {sad}. "[Is the seed sleeping|Will it ever
    grow]?" {he} asked.
"You have to [wait|be patient]," said {e}. "Good things take time."
So {n} waited. [The sun shone and the rain fell.|The rain fell and the sun came out.] Then one morning, {he} saw
    a tiny green leaf!
The plant grew and grew. At the end of the summer, there was a {grown} [in the garden|there]. {n} {use}.
{n} learned to [be patient|wait for good things].
""",
        {
            "grown,use": "big yellow sunflower/showed it to everyone|beautiful red rose/gave it to {e}|"
            "giant pumpkin/made a big pot of soup for all {his} friends|little apple tree/shared the apples with {f}|"
            "fat orange pumpkin/carried it home with {f}|tall sunflower/danced around it"
        },
    ),
    Plot(
        "baking a cake",
        """
{day}, {n} wanted to bake a {flavor} cake for {e}. It was {occasion}, and {he} wanted it to be a surprise.
{He} mixed [the flour, the eggs and the milk|the eggs, the sugar and the flour] in a big bowl. But there was a
    problem. There was no {missing} [left|in the house]!
"[What can I do|What now]?" {n} thought. {He} [ran next door|went to {f}]. "Do you have some {missing}?" {he}
    asked {f}.
"Yes! [And I can help you|Can I help you bake]?" [said {f}|{f} said].
They stirred and stirred. {f} got flour on {fhis} nose, and they both laughed. Then they put the cake in the
    oven.
Soon the whole house smelled [sweet|good|wonderful]. When {e} came home, {n} and {f} shouted, "Surprise!"
{E} [was so happy|took a big bite]. "This is the best cake in the [whole|] world!" said {e}.
""",
        {
            "flavor": "chocolate|carrot|lemon|honey|strawberry|banana",
            "occasion": "{e_poss} birthday|a special day",
            "missing": "sugar|milk|butter|honey",
        },
        "child",
    ),
    Plot(
        "a rainy day",
        """
{day}, {n} wanted to play outside, but it was raining. {He} looked out of the window and felt {sad}.
"[I cannot play in the rain|Rain is no fun]," {he} said. {E} [smiled|laughed]. "Put on your [{color}
    boots|{color} coat], and let us see!"
{n} went out. [Splash!|Splash, splash!] {He} jumped into a big puddle. {He} [laughed and jumped again|jumped
    again and again].
Soon {f} came out too. They made {made} and sang a song about the rain.
Then the rain stopped, and the sun came out. "Look up!" said {f}. There was a [big|beautiful|bright] rainbow in
    the sky.
"{Rain} is [fun after all|not so bad]," said {n}. {He} went home with wet feet and a big smile, and {e} made
    {him} some [warm milk|hot soup|hot chocolate].
""",
        {"made": "little boats of leaves|boats of paper|a small river|mud pies", "rain": "rain|a rainy day"},
    ),
    Plot(
        "making a new friend",
        """
{day}, someone new came {to}. {Fhis} name was {f}, and {fhe} was very [shy|quiet]. {f} [stood all alone|sat
    alone under a tree].
{n} [saw {fhim}|looked at {f}] and remembered how it felt to be alone. {He} walked over. "Hi, I am {n}. [Do you
    want to play|Would you like to play with me]?"
{f} looked at {his} {o}. "[I do not know how|I am not very good at it]," {fhe} said.
"That is okay. I will show you," said {n}. [So|Then] they played with the {o}. At first {f} was quiet, but soon
    {fhe} was laughing.
"[You are funny|You are very kind]," said {f}. They shared a {snack} and talked about {talk}.
When it was time to go home, {f} asked, "[Can we play again tomorrow|Will you be my friend]?"
"[Yes, of course|Of course]!" said {n}. From that day on, they were best friends.
""",
        {
            "snack": "apple|cookie|sandwich|banana|pear|cupcake",
            "talk": "stars and planets|their favorite games|trains and ships|dinosaurs|their families",
        },
    ),
    Plot(
        "a surprise party",
        """
It was {n_poss} birthday, but nobody said a word about it. {E} was busy, and {f} did not come to play.
"[Did everyone forget my birthday|Does nobody remember]?" {n} thought. {He} felt {sad} and went [for a
    walk|outside alone].
{He} walked {to} and [sat down|looked at the clouds|threw little stones]. After a while, {he} [went home|walked
    slowly home].
The house was dark and quiet. {n} opened the door. Suddenly, the light went on. "Surprise!" everyone shouted.
There were {color} balloons and a big {flavor} cake. {f} gave {him} a {co}. "Happy birthday, {n}!" said {f}.
"[I thought you forgot|I was so sad, and now I am so happy]!" {n} said. {E} laughed. "We could never forget
    you."
They [danced and ate cake|played games and ate cake|sang songs] until [the evening|it was dark]. It was the best
    birthday ever.
""",
        {"flavor": "chocolate|lemon|honey|strawberry|banana"},
    ),
    Plot(
        "a race",
        """
{day}, there was a big race {at}. {n} wanted to win [more than anything|very much]. {f} was in the race too.
"[I am the fastest|Nobody can beat me]," said {n}. [One, two, three, go!|Ready, set, go!] Everyone started to
    run.
{n} was in front. {He} ran past {mark}. But then {he} heard a cry. {f} had [fallen down|tripped over a stone]!
{n} looked at the finish line. It was so near. Then {he} looked at {f}. {He} [turned around|ran back].
"Are you hurt? [Take my hand|Let me help you]," said {n}. {He} helped {f} to stand up, and they walked [to the
    finish line|to the end] together.
They [were the last|did not win], but everyone clapped [for them|and cheered]. "You are a real friend," said
    {f}.
{n} [did not get a prize|did not win the race], but {he} felt like a winner.
""",
        {"mark": "the big tree|the old well|the bridge|the red barn|the duck pond"},
    ),
    Plot(
        "eating too many {foods}",
        """
{n} loved {foods} more than anything. {day}, {e} made a big plate of {foods} and said, "[Please wait until
    dinner|You may eat two]."
But the {foods} smelled so good. When nobody was looking, {n} ate one. Then {he} ate another one, and another
    one.
Soon the plate was empty. {n_poss} tummy began to hurt. "[Oh, my tummy|Ouch, it hurts]!" {he} said.
{E} came in and saw the empty plate. "[Did you eat them all|Where are all the {foods}], {n}?"
"Yes, I did. I am sorry," said {n}. {E} was not angry. {mom} [gave {him} some tea|put {him} to bed|gave {him} a
    warm blanket].
"[Too much of a good thing is not good|Sometimes a little is better than a lot]," said {e}. The next day, {n}
    felt better.
{He} helped {e} to make new {foods}, and this time {he} shared them with {f}.
""",
    ),
    Plot(
        "a lost kitten",
        """
{day}, {n} found a little {fur} kitten {at}. It was [cold and hungry|all alone], and it cried, "Meow, meow!"
"[Are you lost, little kitten|Where is your home]?" asked {n}. {He} [gave it some milk|put {his} scarf around
    it].
{n} wanted to keep the kitten, but {he} knew that someone was missing it. {f} and {n} [asked everyone|went from
    door to door].
"Is this your kitten?" they asked {ask1}. "No," [was the answer|came the answer]. They asked {ask2}. "No, it is
    not mine."
At last, they came to a [small|little] house [with a {color} door|at the end of the street]. An old woman opened
    the door, and her eyes grew big.
"[My kitten|Oh, my dear kitten]!" she cried. "I have looked for you all day. Thank you, children!"
She gave them [each a cookie|some warm cake], and they could visit the kitten every day. {n} was {glad}.
""",
        {
            "fur": "gray|white|black|orange|brown",
            "ask1": "the baker|the farmer|the teacher",
            "ask2": "the mailman|the man in the shop|the girl next door",
        },
        "child",
    ),
    Plot(
        "a sand castle",
        """
{day}, {n} and {f} went to the beach. "Let us build [the biggest sand castle in the world|a castle for a king]!"
    said {n}.
They dug and dug. {n} made {part1}, and {f} made {part2}. They put {deco} on top.
But then a big wave came. [Whoosh!|Splash!] The wave washed the castle away. "Oh no! [Our castle is gone|All our
    work is gone]," cried {f}.
{n} was sad too. But then {he} had an idea. "[We can build it again|Let us build a new one], but not so close to
    the water," {he} said.
They started again, and this time {e} helped them. The new castle was [even bigger|even better] than the old
    one.
The waves came, but they could not reach it. {n} and {f} [danced around the castle|were very proud]. Sometimes
    it is good to start again.
""",
        {
            "part1,part2": "the walls|the towers|a deep moat|a long bridge|the gate",
            "deco": "shells|a little flag|a white feather|a {color} flag",
        },
    ),
    Plot(
        "a snowman",
        """
One winter morning, {n} looked out of the window. Everything was white. "Snow!" {he} shouted [happily|with joy].
{He} [put on|took] {his} {color} scarf and ran outside. {f} was there too. "Let us make a snowman!" said {f}.
They rolled a big ball, then a smaller ball, and then a very small one. They gave the snowman a {nose} nose and
    {eyes} for eyes.
"He looks cold," said {n}. So {he} took off {his} scarf and put it around the [neck of the snowman|snowman].
{n} and {f} [played around the snowman|danced around the snowman] all day. At night, {n} looked out and saw [him
    smile|the snowman in the moonlight].
[In spring|After some days], the snow melted, and the snowman was gone. {n} was {sad}. But {e} said, "He will
    come back next winter."
{n} kept the scarf [safe|in a box] and waited for the snow.
""",
        {"nose": "carrot|stone|red apple", "eyes": "two stones|two buttons|two nuts"},
    ),
    Plot(
        "helping a cold friend",
        """
It was a cold [winter|autumn] day. {n} was warm because {he} had a new {color} {wear}. {E} had made it for
    {him}.
On the way {to}, {n} met {f}. {f} had no {wear}, and {fhe} was shaking. "Brr, I am so cold," said {f}.
{n} looked at {his} {wear}. {He} loved it very much. But {he} did not want {his} friend to be cold.
"[Here, take my {wear}|You can have my {wear}]," said {n}. "But now you will be cold," said {f}.
"[We can take turns|I can run home, and running makes me warm]," said {n}, and they both laughed.
When {n} came home, {he} told {e} [everything|about {f}]. {E} gave {him} a [big|] hug. "You have a [warm|kind]
    heart," said {e}.
The next day, there were two new {wears} on the table: one for {n} and one for {f}.
""",
        {"wear,wears": "scarf/scarves|hat/hats|coat/coats|sweater/sweaters"},
    ),
    Plot(
        "a little boat",
        """
{day}, {n} made a little boat out of {made}. {He} [put a {color} sail on it|painted it {color}] and
    [carried|took] it to the river.
"[Sail, little boat|Off you go]!" {he} said. The boat [sailed|floated] away, and {n} ran along beside it.
But the river was fast. The boat went [faster and faster|farther and farther], and soon {n} could not [catch
    it|see it]. {He} [was sad|stopped and sighed].
Then a {swimmer} put its head out of the water. "[Why do you look so sad|What is wrong]?" it asked.
"My boat is gone," said {n}. "[Wait here|Do not worry]," said the {swimmer1}, and it swam [away|down the river].
[Soon|After a while], the {swimmer1} came back and pushed the boat in front of it. "[Thank you|You are so
    kind]!" {n} cried.
After that, {n} tied a long string to the boat, and every day {he} brought the {swimmer1} some [bread|berries].
""",
        {
            "made": "wood|paper|a nut shell|bark",
            "swimmer,swimmer1": "little otter/otter|green turtle/turtle|white duck/duck|beaver/beaver|silver fish/fish",
        },
    ),
    Plot(
        "a treasure map",
        """
{day}, {n} found an old map [in the attic|in a bottle on the beach|in an old book|under a stone]. There was a
    big red cross on it.
"[A treasure map|This is a treasure map]!" {he} said. {He} ran to {f} and showed {fhim} the map. "Let us find
    the treasure!" said {f}.
They walked {way1} and {way2}. Then they came to {cross}. "[This is the place|Here it is]!" said {n}.
They dug a deep hole. [Clonk!|Bump!] There was a wooden box. They [opened it|lifted the lid] slowly. Inside was
    no gold. There {inside}.
"[Is that all|No gold]?" asked {f}. But {n} [smiled|began to laugh]. "[We had an adventure, and that is better
    than gold|This is much better than gold]," {he} said.
{f} agreed. They [put the box in their secret place|shared everything], and they {after}.
""",
        {
            "way1,way2": "over the hill|through the dark woods|across the stream|past the old mill|along the beach",
            "cross": "a tall oak tree|a big gray rock|an old well|a small cave",
            "inside,after": "was an old book with stories/read a story every evening|"
            "were many colored stones/made a necklace for {e}|was a little flute/played music all the way home|"
            "were two wooden toys/played until it was dark",
        },
    ),
    Plot(
        "a magic {stone}",
        """
{day}, {n} found a {look} {stone} {at}. When {he} touched it, it began to [glow|shine]. "I am a magic {stone},"
    said a [tiny|small] voice. "You have one wish."
{n} was very [surprised|excited]. {He} thought about [toys and sweets|a big castle|a mountain of {foods}]. What
    should {he} wish for?
On the way home, {n} met {f}. {f} was [sick|very sad], because {trouble}.
{n} [looked at|held] the {stone}. Now {he} knew what to wish for. "I wish that {wish}," {he} said.
The {stone} [glowed|shone] one last time, and the wish came true. {f} [laughed|jumped for joy]. "How did this
    happen?" {fhe} asked.
{n} only smiled. The {stone} was just a {stone} now, but {n} did not mind. [A friend is better than
    magic.|Seeing {f} happy was the best gift of all.]
""",
        {
            "look": "shiny|strange|blue|golden|silver",
            "stone": "stone|shell|ring|button|feather",
            "trouble,wish": "{fhis} favorite book was lost/{f} finds {fhis} favorite book|"
            "{fhis} leg was hurt/{f} can run again|"
            "{fhis} house was cold/the house of {f} is always warm|{fhis} garden was dry/it rains in the garden of {f}",
        },
    ),
    Plot(
        "a star that fell from the sky",
        """
One night, {n} could not sleep. {He} looked out of the window and saw a bright light. A little star had fallen
    [into the garden|behind the house]!
{n} [ran outside|went out on quiet feet]. The star was [small and warm|as small as an apple]. "[I fell down|I
    fell out of the sky], and I cannot get home," said the star.
"[Do not cry|I will help you], little star," said {n}. {He} {try1}, but the sky was too [high|far away].
Then {n} had an idea. {He} asked {helper} for help. "[Of course I will help|That is easy]," said {helper1}.
[Up and up they went|Higher and higher they went], until the star was back in its place. The star [twinkled with
    joy|shone brighter than ever].
"[Thank you, {n}|I will never forget you]!" called the star. Since then, {n} looks up every night, and one
    little star [winks at {him}|twinkles just for {him}].
""",
        {
            "try1": "threw the star up|climbed the tallest tree|stood on the roof",
            "helper,helper1": "an old owl/the owl|the wind/the wind|a big white bird/the bird|a wild goose/the goose",
        },
    ),
    Plot(
        "a dragon who could not breathe fire",
        """
All the other dragons could breathe fire, but {n} could not. When {he} tried, only {out} came out. The others
    laughed at {him}.
{n} was {sad} and flew away to a {far}. There {he} heard someone cry. It was {f}.
"Why are you crying?" asked {n}. "[I am scared of dragons|All dragons burn everything], so nobody can be their
    friend," said {f}.
"[I cannot breathe fire|I only make {out}], so you do not have to be afraid," said {n}. {f} [began to
    smile|laughed].
They played all day. {f} thought that {out} [was wonderful|was much better than fire]. Soon [all the
    children|everyone in the village] wanted to see it.
When the other dragons saw how happy {n} was, they were sorry. "Will you show us how you do it?" they asked.
{n} was proud. {He} learned that it is [good to be different|fine to be different].
""",
        {"out": "warm steam|pink smoke|a little puff|soft snow", "far": "lake|green hill|quiet valley|lonely beach"},
        "dragon",
    ),
    Plot(
        "a robot who wanted a friend",
        """
{n} could [clean the floor|carry heavy boxes|count to a million] and do many other things. But {n} was lonely.
    {He} wanted a friend.
{day}, {n} went outside. "Will you be my friend?" {he} asked {ask1}. But there was no answer. {He} asked {ask2}.
    There was no answer [there|] either.
Then it began to rain. Rain is bad for robots! {n} [stood still|could not move]. "Help," {he} said in a small
    voice.
{f} heard {him} and came with a big {color} umbrella. "[Come with me|Come under my umbrella]," said {f}. {Fhe}
    took {him} to a dry place and [dried {his} arms|put oil on {his} wheels].
"Beep! Why did you help me?" asked {n}. "Because that is what friends do," said {f}.
{n_poss} lights [turned green|began to shine]. {He} had a friend at last. Now they {together} every day.
""",
        {
            "ask1,ask2": "a tall tree|a red car|a big stone|the moon|a lamp in the street",
            "together": "play together|go for a walk|read books together|watch the stars",
        },
        "robot",
    ),
    Plot(
        "a sick friend",
        """
{day}, {n} went to see {f}, but {f} was sick in bed. {Fhis} nose was red, and {fhis} head was hot. "[I cannot
    play today|I feel so bad]," said {f}.
{n} wanted to help. {He} ran home and told {e}. "[We could make some soup|Soup is good for sick friends]," said
    {e}.
They put {veg1}, {veg2} and {veg3} in a big pot. {n} stirred it [slowly|carefully]. It smelled [very
    good|wonderful].
{n} carried the soup to {f}. {He} [walked very carefully|did not spill a drop]. {He} also brought a {co} to make
    {fhim} smile.
{f} ate the soup and [smiled|felt warm inside]. "[This is the best soup ever|You are the best friend in the
    world]," {fhe} said.
{n} [read {fhim} a story|sang {fhim} a song], and {f} fell asleep. [Two days later|The next day], {f} was well
    again, and they [played together|ran outside to play].
""",
        {"veg1,veg2,veg3": "carrots|potatoes|onions|peas|beans|tomatoes|corn"},
    ),
    Plot(
        "being stuck in the mud",
        """
{day}, {n} was running {at} after the rain. [Plop!|Splat!] {He} stepped into deep mud, and {he} could not get
    out.
"Help! I am stuck!" {n} called. {f} heard {him} and came [running|quickly]. {f} pulled and pulled, but {n} did
    not move.
Then came a {big}. It pulled too, but {n} did not move. Then came a {mid}. They all pulled, but {n} still did
    not move.
At last, a tiny {tiny} came. "[Can I help|May I help]?" it asked. "You are too small," said the {big1}. But {n}
    said, "[Please try|Everyone can help]!"
So they all pulled together. One, two, three! [Pop!|Plop!] {n} flew out of the mud, and they all fell [on their
    backs|into the grass].
They laughed and laughed. "Thank you, [my friends|all of you]," said {n}. [Even the smallest friend can be a big
    help.|Together they were strong.]
""",
        {
            "big,big1": "horse/horse|big cow/cow|strong goat/goat|big dog/dog",
            "mid": "fat pig|gray cat|white sheep|brown hen",
            "tiny": "mouse|ant|beetle|frog|snail",
        },
    ),
    Plot(
        "taking something without asking",
        """
{f} had a {co}, and {n} liked it very much. {day}, when {f} was not looking, {n} took the {o} and hid it [under
    {his} coat|in {his} bag].
At home, {n} played with the {o}. But it did not feel right. {His} tummy felt [funny|strange].
The next day, {n} saw {f}. {f} was crying. "I cannot find my {o}. [My grandma gave it to me|I have looked
    everywhere]," {fhe} said.
{n} felt very bad. {He} ran home, took the {o} and brought it back. "I took it. I am so sorry," {he} said.
{f} was [surprised|quiet]. Then {fhe} [wiped {fhis} eyes|nodded]. "Thank you for bringing it back. [Next time,
    just ask me|You can play with it if you ask]."
"I will," said {n}. They played with the {o} together, and {n_poss} tummy felt [fine|good] again.
""",
    ),
    Plot(
        "someone who was too small",
        """
{n} was the smallest of all. "You are too small to {big_do}," the others [said|always said]. {n} felt {sad}.
{day}, there was a problem. {f} had dropped a {lost} into a [deep|narrow] hole, and nobody could reach it.
{big_one} tried, but {his_big} arm was too short. {f} tried a stick, but [it broke|the stick broke].
"Let me try," said {n}. The others laughed. But {n} was so small that {he} could crawl into the hole. It was
    dark [and cold|], but {n} was brave.
Soon {he} came out with the {lost1}. Everyone cheered. "[You did it|You saved the day], {n}!" said {f}.
From that day on, nobody said that {n} was too small. [Being small can be a very good thing.|{n} was small, but
    {he} had a big heart.]
""",
        {
            "big_do": "play with us|climb the big tree|help us|run with us",
            "lost,lost1": "golden key/key|silver ring/ring|little bell/bell|shiny coin/coin|red ball/ball",
            "big_one,his_big": "The bear/his|The big dog/his|The old goat/his|The lion/his",
        },
        "animal",
    ),
    Plot(
        "a thief in the garden",
        """
{n} had a garden full of {crop}. {day}, {he} saw that some {crop} were gone. "[Who took my {crop}|Who did
    this]?" {he} said.
That night, {n} hid [behind a bush|behind the fence] and waited. [Crunch, crunch!|Munch, munch!] Somebody was
    eating {his} {crop}! It was a {thief}.
"[Stop|Got you]!" cried {n}. The {thief} [jumped|was very scared] and said, "Please do not be angry. [My babies
    are hungry|I have not eaten for days]."
{n} looked at the thin {thief}. {He} was not angry anymore. "You should have asked me," {he} said. "[There is
    enough for all of us|I will gladly share]."
{n} filled a basket with {crop} and gave it to the {thief}. The next day, the {thief} came back and helped {n}
    to [water|weed] the garden.
They became good friends, and {n_poss} garden was [bigger|more beautiful] than ever.
""",
        {"crop": "carrots|cabbages|turnips|berries|beans|peas", "thief": "rabbit|mouse|squirrel|hedgehog"},
    ),
    Plot(
        "a wobbly tooth",
        """
{day}, {n} felt something strange. One of {his} teeth was [wobbly|loose]! {He} ran to {e}. "My tooth is [falling
    out|moving]!" {he} cried.
"[That is good|Do not worry]," said {e}. "It means that you are growing. A new tooth will come."
{n} was a little afraid. "Will it hurt?" {he} asked. "Only [a little bit|for a moment]," said {e}.
At lunch, {n} bit into a {bite}. [Pop!|Oops!] There was the tooth! It did not hurt at all. {n} laughed, and
    everyone could see the gap.
That night, {n} put the tooth under {his} pillow. In the morning, the tooth was gone, and there was a {gift}.
{n} ran to school and showed it to {f}. "[I want a wobbly tooth too|You are so lucky]!" said {f}, and {n} smiled
    [with {his} gap|].
""",
        {"bite": "apple|carrot|piece of bread|pear", "gift": "shiny coin|little book|silver coin|tiny star"},
        "child",
    ),
    Plot(
        "painting a picture",
        """
{n} loved to paint. {day}, {he} wanted to paint a {what}. {He} took {his} brushes and paints and sat down {at}.
But there was no more {c1} paint! "[Now I cannot paint a {what}|My picture will never be done]," said {n}. {He}
    was {sad}.
{f} came by. "Why do you not mix {c2} and {c3}?" {fhe} asked. {n} did not understand, so {f} showed {him}.
They mixed the {c2} paint and the {c3} paint. "Look! It is {c1} now!" {n} cried. It was like magic.
{n} painted all [day|afternoon], and {f} helped {him}. When the picture was done, they [gave it to {e}|showed it
    to {e}].
"How beautiful!" said {e}, and hung the picture on the wall. {n} and {f} were very proud.
""",
        {
            "what,c1,c2,c3": "green frog/green/blue/yellow|orange fish/orange/red/yellow|purple flower/purple/red/blue|"
            "green tree/green/blue/yellow|orange cat/orange/red/yellow|purple bird/purple/red/blue"
        },
    ),
    Plot(
        "a loud drum",
        """
{day}, {n} got a big {color} drum. [Boom, boom, boom!|Bam, bam, bam!] {He} played it in the morning, at noon and
    at night.
"[It is too loud|Please stop], {n}," said {e}. "[I cannot sleep|We cannot hear anything]," said {f}. {n} was
    {sad}. "Nobody likes my music," {he} thought.
{He} took {his} drum and went far away, {to}. There {he} could play as loud as {he} wanted.
But then a thick fog came. [Everything was white.|Nobody could see anything.] {f} had come to look for {n}, and
    now {fhe} was lost in the fog.
{n} heard {fhim} call. {He} had an idea. [Boom, boom, boom!|Bam, bam, bam!] {He} played {his} drum as loud as
    {he} could. {f} followed the sound and found {him}.
"Your drum saved me!" said {f}. After that, {n} played [softly|only a little] at home, but on foggy days {he}
    played very loud, so that [nobody got lost|everyone found the way home].
""",
    ),
    Plot(
        "going fishing",
        """
{day}, {n} and {e} went fishing [at the lake|at the river]. They sat [on a log|in a small boat] and waited. It
    was very quiet.
"[When will a fish come|Why is there no fish]?" asked {n}. "[Be patient|You have to wait]," said {e}.
{n} waited and waited. {He} almost fell asleep. Suddenly, something pulled at the line. "I have [something|a
    fish]!" {he} shouted.
{n} pulled with all {his} might. But it was not a fish. It was a {thing}! {E} laughed so hard that the [tears
    came|birds flew away].
{n} threw the line in again. This time, {he} caught a [small|tiny] silver fish. The fish looked at {him} with
    big eyes.
"[It is too little|You may go home, little fish]," said {n}, and {he} let it swim away. They had no fish for
    dinner, but they had [a wonderful day|a funny story to tell].
""",
        {"thing": "old boot|old hat|wet sock|broken umbrella|old pot"},
    ),
    Plot(
        "building a bridge",
        """
{n} and {f} lived on two sides of a [small|cold] river. They wanted to play together, but the water was too
    [deep|fast].
"[How can we meet|How can I come to you]?" called {n}. "Let us build one!" {f} called back.
{n} found {mat1}, and {f} found {mat2}. They worked [all day|from morning to evening]. But in the night, the
    water washed the bridge away.
"[We need something stronger|We have to try again]," said {n}. {He} asked {helper} for help. "[Of course|I would
    love to help]," said {helper1}.
They put big stones in the water and laid a long tree over them. {n} took one step, and then another step. The
    bridge was strong!
{n} and {f} met in the middle and [hugged|danced]. From then on, they played together every day.
""",
        {
            "mat1,mat2": "some branches|long sticks|some boards|old ropes",
            "helper,helper1": "the beaver/the beaver|a strong bear/the bear|the old farmer/the farmer",
        },
    ),
    Plot(
        "a bee and a flower",
        """
{day}, {n} saw a little bee {at}. It was lying [on its back|on the ground] and could not fly. "[Poor bee|Oh,
    little bee]," said {n}.
"Be careful, it can sting!" said {f}. But {n} was not afraid. {He} [brought it a drop of honey|put it gently on
    a {color} flower].
The bee [drank|rested], and soon it moved its wings. Buzz! It flew around {n_poss} head and away.
Some days later, {n} was lost in the tall grass [of the meadow|]. {He} could not see the way. "[Where do I have
    to go|Which way is home]?" {he} said.
Buzz! The little bee was back. It flew in front of {him}, and {n} followed it all the way home.
"[You helped me, too|Thank you, little bee]!" said {n}. {He} planted many {color} flowers for the bee, and {f}
    helped {him}. One kind act brings another.
""",
    ),
    Plot(
        "a coin at the market",
        """
{day}, {e} gave {n} a coin. "[Buy something nice at the market|You may buy what you like]," said {e}. {n} was
    {glad}.
At the market, there were so many things: {w1}, {w2} and {w3}. {n} wanted to buy {w1}.
Then {n} saw {f}. {f} was looking at the floor. "I lost my coin, and now I cannot buy [bread for my family|milk
    for my little sister]," said {f}.
{n} held {his} coin tight. {He} thought about {w1}. Then {he} opened {his} hand. "[Take my coin|You need it more
    than I do]," {he} said.
{f} was so happy. {Fhe} [hugged {n}|thanked {him} again and again]. The old woman at the market had seen
    everything.
"You have a good heart," she said, and gave {n} {w1} for free. {n} [ran home with a big smile|could hardly
    believe it].
""",
        {"w1,w2,w3": "sweet {foods}|red apples|paper stars|wooden toys|little bells|ripe plums|colored ribbons"},
        "child",
    ),
    Plot(
        "a locked box",
        """
{day}, {n} found a {kind} box {s1}. {He} shook it. Something inside [went cling, cling|made a soft sound]. But
    the box was locked.
"[I must find the key|Where is the key]?" said {n}. {He} looked {s2}. There was only [dust|an old sock|a
    spider]. {He} looked {s3}. There was no key [there|] either.
{n} asked {e}. {E} smiled. "When I was little, I had a key. [Look in my old coat|Look in the blue jar]," said
    {e}.
{n} ran and looked. There was a tiny key! {He} put it into the lock. Click! The box opened, and {inside}.
"[This was mine when I was small|I have missed this box for years]," said {e}. "Now it is yours, {n}."
{n} hugged {e} and [promised to take good care of it|put the box next to {his} bed].
""",
        {
            "kind": "wooden|small|silver|old|blue",
            "s1,s2,s3": "under the bed|in the attic|behind the clock|in the old barn|under the stairs|"
            "on top of the shelf",
            "inside": "soft music began to play|there was a little wooden bird|a tiny dancer turned around and around|"
            "there were old letters and a shiny medal",
        },
    ),
    Plot(
        "someone who could not sleep",
        """
It was late, and {n} was in bed. But {he} could not sleep. {He} turned to the left, and {he} turned to the
    right.
{He} counted {count}, but it did not help. "[{mom}, I cannot sleep|I am not tired]," {n} called.
{E} brought [a glass of warm milk|a cup of tea|another blanket], but {n} was still awake. {E} [sang a song|read
    a story], but {n} was still awake.
"[What is missing|Is something wrong]?" asked {e}. {n} thought. Then {he} knew it. "My {o}! [It is still
    outside|I forgot it in the garden]!"
{E} went out with a lamp and came back with the {o}. It was a little wet, but {n} did not mind. {He} [held it
    tight|put it next to {his} pillow].
"Good night, {n}," said {e}. But there was no answer. {n} was already asleep.
""",
        {"count": "sheep|stars|clouds|the flowers on the wall"},
    ),
    Plot(
        "a messy room",
        """
{n_poss} room was very messy. There were toys {s1} and socks {s2}. "[Please clean your room|It is time to clean
    up], {n}," said {e}.
"Later," said {n}. {He} wanted to play. Every day {e} asked, and every day {n} said, "Later."
{day}, {f} came to visit. "Let us play with your {co}!" said {f}. {n} looked and looked, but {he} could not find
    it in all the mess.
Then {n} [stepped on a toy car|slipped on a book] and fell. "Ouch! [That is enough|Now I will clean up]," {he}
    said. "I will help you," said {f}.
They [picked up the toys|put the books on the shelf] and folded the clothes. Under the last sock they found the
    {o}!
Now there was [a lot of|so much] space to play. "A clean room is [much better|really nice]," said {n}. {E} was
    so proud.
""",
        {"s1,s2": "on the floor|under the chair|on the bed|on the shelf|behind the door"},
        "child",
    ),
    Plot(
        "a lost {lamb}",
        """
{day}, {n} visited an old farmer. The farmer was {sad}. "My littlest {lamb} is gone," he said. "[I am too old to
    look for it|I have looked all night]."
"We will find it," said {n}. {He} called {f}, and together they went {way1}. They saw {seen}, but no {lamb}.
They went {way2}. "Listen!" said {f}. [They heard a soft cry|There was a soft sound]. The {lamb} was [stuck in a
    bush|stuck between two rocks|in a deep hole]!
"[Do not be afraid|We are here], little {lamb}," said {n}. {He} [pulled carefully|worked slowly], and {f} helped
    {him}. Soon the {lamb} was free.
They brought it back to the farm. The farmer had [tears in his eyes|a big smile]. "How can I thank you?" he
    asked.
"[We were happy to help|It is such a sweet {lamb}]," said {n}. The farmer gave them fresh {foods}, and they all
    ate together.
""",
        {
            "lamb": "lamb|goat|duckling|pony|piglet",
            "way1,way2": "up the hill|into the woods|along the river|across the field|down into the valley",
            "seen": "many birds|a brown rabbit|two deer|a fox",
        },
    ),
    Plot(
        "a game of hide and seek",
        """
{day}, {n} and {f} played hide and seek {at}. {n} closed {his} eyes and counted to ten. "I am coming!" {he}
    called.
{He} looked {s1}. No {f}. {He} looked {s2}. No {f}. "[Where are you|Where can {fhe} be]?" said {n}.
{n} looked for a long time, and {he} began to worry. "{f}! [Come out|The game is over]!" {he} called. But there
    was no answer.
Then {n} heard a funny sound. [Zzz, zzz.|It sounded like a little saw.] It came from {s3}. There was {f}! {Fhe}
    was sleeping [like a baby|with a smile].
{n} laughed and woke {fhim} up. "[Is the game over|Did I win]?" said {f}.
"Yes, you won," said {n}. "You are the best hider in the world!" They [walked home|went home] hand in hand.
""",
        {
            "s1,s2": "behind the wall|under the bench|behind the big tree|in the bushes|behind the barn",
            "s3": "inside a hollow tree|under a pile of leaves|an old basket|behind a haystack",
        },
    ),
    Plot(
        "a balloon that flew away",
        """
{day}, {e} bought {n} a [big|shiny|] {color} balloon. {n} [held the string tight|ran around with it]. "[This is
    my best balloon|Look how it dances]!" {he} said.
But when {n} waved to {f}, the string slipped out of {his} hand. Up, up, up went the balloon. "[Come back|No,
    no, no]!" cried {n}.
The balloon flew over {over1} and over {over2}. {n} and {f} ran after it as fast as they could, but they could
    not catch it.
{n} began to cry. "[Maybe it wants to see the world|It is on a big adventure now]," said {f}. {n} [stopped
    crying|dried {his} eyes] and looked up.
The balloon was only a tiny dot [in the sky|]. "[Have a good trip|Goodbye], balloon!" {n} called, and {he}
    waved.
That evening, {n} and {f} [drew pictures of|made up stories about] all the places that the balloon would see:
    {see1}, {see2} and {see3}.
""",
        {
            "over1,over2": "the houses|the trees|the church|the pond|the bridge",
            "see1,see2,see3": "high mountains|blue seas|big cities|green islands|white clouds|sandy deserts",
        },
    ),
    Plot(
        "a night in a tent",
        """
{day}, {n} and {f} wanted to sleep in a tent {at}. They took [a lamp and a blanket|two blankets and some
    {foods}].
When it was dark, they told each other stories about {tales}. Then they heard a noise. {noise}! "[What was
    that|Did you hear that]?" whispered {f}.
They [hid under the blanket|held hands]. {noise}! It came closer and closer. Something touched the tent! "Help!"
    they cried.
{n} was very brave. {He} took the lamp and opened the tent. [Outside stood|There stood] {visitor}!
"[It only wants our {foods}|You gave us such a fright]," said {n}, and they both laughed [until their tummies
    hurt|loudly].
They gave {visitor1} one of their {foods} and closed the tent. Then they looked at the stars until they fell
    asleep.
""",
        {
            "tales": "ghosts|pirates|dragons|giants|brave knights",
            "noise": "Crack|Rustle, rustle|Snuff, snuff|Tap, tap",
            "visitor,visitor1": "a little hedgehog/the hedgehog|the neighbor's dog/the dog|a curious goat/the goat|"
            "a hungry raccoon/the raccoon",
        },
    ),
    Plot(
        "a broken toy",
        """
{n} and {f} were playing with {n_poss} {co}. They [pulled on it|both wanted it], and suddenly it broke. Crack!
"[You broke my {o}|Now it is broken]!" cried {n}. "No, you broke it!" said {f}. They were both very angry, and
    {f} went home.
{n} sat alone with the broken {o}. {He} missed {f}. [At home, {f} missed {n} too.|It was so quiet without
    {fhim}.]
The next day, there was a knock at the door. It was {f} with [a pot of glue|some glue|a box of tools]. "I am
    sorry. [Can we fix it|Let us fix it together]," {fhe} said.
"I am sorry too," said {n}. They worked together, and {e} helped them. Soon the {o} was whole again.
"It [looks a bit funny now|is not as good as new]," said {f}. "[I like it even more|It does not matter]," said
    {n}. "The most important thing is that we are friends."
""",
    ),
    Plot(
        "a long trip by train",
        """
{day}, {n} and {e} went on a trip by train to visit {grand}. {n} sat at the window and saw {v1}, {v2} and {v3}.
But when they got off the train, {n} looked at {his} hands. They were empty! "My {o}! I left it on the train!"
    {he} cried.
The train was already leaving. {E} [ran|went] to a man in a blue cap and told him everything. "[I will call the
    next station|We will find it]," said the man.
{n} was {sad} all day, even when {grand} made {foods} for {him}. In the evening, there was a knock at the door.
It was the man in the blue cap! "I think someone missed you," he said, and gave {n} the {o}. "Your {o} [went all
    the way to the sea|had a big adventure]!"
{n} [laughed and hugged the {o}|thanked the man]. From then on, {he} always held it tight on every trip.
""",
        {
            "grand": "Grandma|Grandpa|Aunt Rose|Uncle Ben",
            "v1,v2,v3": "green hills|cows and horses|a wide river|small villages|tall towers|golden fields",
        },
        "child",
    ),
    Plot(
        "a proud rooster",
        """
On a farm there was a proud rooster. "The sun comes up only because I sing," the rooster always said. {n} [lived
    near the farm|came to the farm every day] and heard it.
{day}, the rooster was [sick|very tired] and could not sing. "Now the sun will not come up!" the rooster cried.
    All the animals were afraid.
"[I do not think so|Wait and see]," said {n}. {He} sat down with {f} and the rooster, and they waited in the
    dark.
Slowly, the sky turned gray, then pink, then gold. The sun came up! The rooster was very [surprised|quiet].
    "Then nobody needs me," he said.
"That is not true," said {n}. "[You wake us up every day|Your song makes the morning beautiful]." And {f} said,
    "Without you we would all sleep too long."
The rooster was happy again. The next morning he sang, not for the sun, but for his friends.
""",
    ),
    Plot(
        "a wise {wise} and a question",
        """
{n} always asked questions. "Why is the sky blue? [Why do birds sing|Where does the wind sleep]?" {he} asked
    {e}. "[Ask the old {wise}|The {wise} knows everything]," said {e}.
So {day_low}, {n} went {way} to find the old {wise}. On the way, {he} met {f}. "May I come with you?" {f} asked.
    "Yes, please," said {n}.
It was a long way. They had to {hard}. {n} was tired, but {f} told {him} jokes, and they shared {foods}.
At last, they found the {wise}. "[What do you want to know|Ask me anything], little one," said the {wise}.
"What is the best thing in the world?" asked {n}. The {wise} smiled and said, "[You found it on your way|It is
    standing next to you]."
{n} looked at {f} and understood. The best thing in the world is a friend.
""",
        {
            "wise": "owl|turtle|whale|elephant|crow",
            "way": "over the mountain|through the forest|along the sea|across the valley",
            "hard": "cross a river|climb over big rocks|walk through the rain|crawl through a dark cave",
        },
    ),
    Plot(
        "a school play",
        """
There was going to be a play at school. {n} wanted to be {role}, and {he} was very excited. {He} learned all the
    words by heart.
{day}, {n} stood on the stage. So many people looked at {him}! {n} opened {his} mouth, but no word came out.
    {He} had forgotten everything.
{f} stood next to {him} in a {dress} costume. "[You can do it|Look only at me]," {fhe} whispered. {n} took a
    deep breath.
{He} looked at {f} and said the first word. Then the second word came, and then all the others. {n} even [sang
    the song|danced the dance] at the end.
Everyone clapped. {E} clapped the loudest. "[You were wonderful|I am so proud of you], {n}!" said {e}.
"[I was so scared|I almost ran away]," said {n}, "but my friend helped me." {He} and {f} [bowed together|held
    hands] and smiled.
""",
        {
            "role": "the king|the moon|a pirate|the lion|a brave knight|the wizard",
            "dress": "frog|mouse|tree|flower|star|bear",
        },
        "child",
    ),
)
