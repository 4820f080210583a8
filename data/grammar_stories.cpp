#include "data/grammar.h"

namespace strata::data {
namespace {

// Dense in choices, so that the floor is a good part of a nat per byte: a dull template would let
// any model look perfect. The hero, what is carried, the animal and the place return later in the
// story, and what is found depends on the place: these are what a model can learn beyond spelling.
constexpr const char* kStories = R"(
var hero(name,he,He,his) = [3] Mia/she/She/her | [3] Tom/he/He/his | [2] Ada/she/She/her
 | [2] Ben/he/He/his | Eve/she/She/her | Max/he/He/his | Lily/she/She/her | Sam/he/He/his
 | Rosa/she/She/her | Finn/he/He/his | Nora/she/She/her | Jack/he/He/his | Zoe/she/She/her
 | Paul/he/He/his | Ivy/she/She/her | Hugo/he/He/his | Uma/she/She/her | Kofi/he/He/his
 | Wren/she/She/her | Gus/he/He/his | Yara/she/She/her | Otto/he/He/his | Dina/she/She/her
 | Levi/he/He/his
var hue(word) = red | blue | green | pink | gray | gold | white | black | tan | teal | rust | lime
var item(word) = kite | hat | book | drum | coin | lamp | ball | cake | key | map | bell | cup
 | rope | pie | coat | flute | bag | doll | fan | jug | comb | pen | sled | vase
var pal(kind) = [2] dog | [2] cat | fox | hen | goat | pony | duck | ram | frog | mole | hare
 | crow | pig | lamb | mule | dove
var place(word) = [2] beach | [2] farm | forest | market | river | park | castle | school

story = <opening> <meeting> <events> <ending>\n
events = [2] <event> | [4] <event> <event> | [3] <event> <event> <event>
 | <event> <event> <event> <event>

opening = [3] One <weather> <time>, <hero.name> took a <make> <hue.word> <item.word> to the
 <place.word>.
 | [2] <hero.name> had a <make> <hue.word> <item.word> and <number> <food>, and <hero.he> <went> to
 the <place.word>.
 | <hero.name> <went> to the <place.word> with a <hue.word> <item.word> and a <trait> <relative>.
weather = [3] sunny | [2] rainy | windy | cold | warm | foggy | snowy | quiet | hot | bright | wet
time = [3] day | [2] morning | night | spring | fall | noon | May day | Monday
went = ran | rode | [2] walked | hurried | flew | sailed | skipped | swam | drove

meeting = [3] A <trait> <size> <pal.kind> was <doing> <where>.
 | [2] There <hero.he> met a <trait> <size> <pal.kind> who <liked> <color> <food>.
 | "<greeting>!" <said> a <trait> <size> <pal.kind> <where>.
doing = asleep | [2] hiding | singing | eating | crying | digging | dancing | waiting | reading
liked = loved | [2] liked | sold | ate | hated | wanted | grew | baked | drew | lost
greeting = [2] Hello | Good day | Help | Hooray | Welcome | Oh no | Look out | Come here
said = said | called | sang | cried | yelled | hissed | laughed | sighed

event = [5] <hero.He> <saw> a <size> <color> <thing@place> <where>.
 | [3] The <pal.kind> <gave> <number> <color> <food> to <person>.
 | [2] "<wish> <number> <size> <thing@place>s," <said> the <pal.kind>.
 | <hero.name> felt <feeling> and <feeling2>, and the <pal.kind> felt <feeling>.
 | [2] They <played> <where> and <found> a <trait> <relative>.
 | [3] Then <person> <came> with a <color> <tool> and <number> <food>.
 | The <item.word> fell <where>, but a <trait> <size> <beast> <found> it.
 | [2] <number.big> <trait> <color> <beast>s <came> and <played> <where>.
number = [2] two | [2] three | four | five | six | seven | nine | ten | some | many
number.big = Two | Three | Four | Five | Six | Seven | Nine | Ten | Some | Many
saw = [2] saw | drew | heard | [2] liked | chased | lost | hid | kept | cleaned | shook | got | cut
gave = [2] gave | sold | threw | showed | brought | passed | lent | fed
played = [2] played | danced | jumped | sat | slept | sang | hid | fished | raced
found = [2] found | saw | hugged | missed | called | met | helped
came = [2] came | ran up | rode up | sat down | woke up | stood up
wish = I want | [2] I see | We need | I lost | You have | I can smell | Bring me | I know
feeling = [2] happy | sad | proud | tired | brave | shy | angry | sleepy | hungry | lucky | calm
feeling2 = glad | cold | [2] warm | lonely | silly | safe | sick | small | strong | bored
make = new | nice | [2] fine | soft | cheap | torn | shiny | dusty | heavy | light | clean | plain
trait = kind | funny | clever | lazy | polite | lame | noisy | grumpy | pretty | mean | jolly
 | wise | fat | young | sly | mad | bold | dear | good | poor | rich | vain
size = [2] big | [2] little | tiny | huge | tall | thin | round | long | short | wide | slim
color = red | blue | green | pink | gray | gold | white | black | tan | teal | rust | lime | brown
 | yellow
food = [2] apples | plums | figs | nuts | cakes | eggs | pears | beans | buns | limes | corn cobs
 | dates | rolls | tarts | leeks | peas | pies | grapes
relative = [2] mom | [2] dad | aunt | uncle | sister | brother | grandma | cousin | friend | twin
person = a king | a queen | the cook | a boy | a girl | the baker | a nurse | a pirate | the farmer
 | a monk | a witch | a knight | the mayor | <hero.his> <relative>
tool = spoon | broom | net | saw | pot | stick | wagon | boat | bucket | ladder | hammer | needle
beast = bear | newt | bee | rat | snake | swan | seal | ant | moth | toad | lion | crab | bat | yak
where = [2] by the <near> <spot> | under a <near> <spot> | near the <near> <spot>
 | behind a <near> <spot> | on the <near> <spot> | far from the <near> <spot>
near = dark | tall | low | new | wet | dry | first | last | stone | steel | wood | south | west | lost
spot = [2] tree | gate | well | rock | barn | bridge | fence | hill | pond | tower | cart | bush
 | wall | door | bench | tent
thing:beach = shell | wave | pearl | stone | gull | sail | oar | anchor
thing:farm = plow | pumpkin | cow | seed | tractor | nest | rabbit | carrot
thing:forest = leaf pile | acorn | mushroom | fir cone | log | twig | fern | cave
thing:market = basket | ribbon | melon | button | jar | ring | scarf | barrel
thing:river = perch rod | raft | reed | otter | canoe | pebble | eel | dam
thing:park = swing | slide | flower | pigeon | statue | fountain | bike | hedge
thing:castle = flag | crown | sword | dragon | throne | ghost | shield | candle
thing:school = pencil | desk | clock | globe | ruler | poem | crayon | song

ending = [3] At <clock>, <hero.name> and the <pal.kind> left the <place.word> and <rested> <where>.
 | [2] That night <hero.he> put the <item.word> <where> and dreamed of <dream>.
 | In the end the <pal.kind> kept the <hue.word> <item.word>, and <hero.he> felt <feeling>.
clock = one | two | three | four | five | six | seven | nine | ten | dusk | dawn | noon
rested = [2] slept | sang | rested | sat | ate | talked
dream = <number> <color> <beast>s | a <color> <beast> | a <size> <color> <tool> | <color> <food>
)";

}  // namespace

Grammar Grammar::stories() {
  return Grammar(kStories);
}

}  // namespace strata::data
