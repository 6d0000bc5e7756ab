"""Guess the encoding of texts in many languages, short and long, whole and broken, and count what is read wrongly.

    python -m tests.encodings
    python -m tests.encodings --texts=20 --prompts=50 --only=russian

Of each text, lines in random order are written in each of its encodings. A case is wrong if it is refused, or if it is
read otherwise than it was written; silent if it is wrong and no note names the right encoding; doubted if it is right,
and a note names another encoding, which reads it otherwise.
"""

import argparse
import collections
import random
import re
import unicodedata

from lib.text.decoding import SAMPLE
from lib.text.encoding import guess

SIMPLIFIED = """\
清晨，老渔夫在码头慢慢地修一把旧椅子。邻居问他：“您今年多大岁数了？”他笑着说：“记不清了，只记得那年下了很大的雪。”
第二天雨后，孩子们跑到河边去看船，有的数着路过的船，有的给远方的朋友写信。谁也没有想到，这把钥匙会丢在松林里！
茶馆的老板娘端来一壶热茶，说城里最近开了一家书店，里面有许多关于历史和地理的书。
妹妹把风筝线缠在手指上，跑得满头大汗；哥哥坐在石阶上吹口哨，说等风再大一点才飞得起来。
“电话响了三遍，你怎么不接？”“我在厨房切西瓜呢。”窗外的知了叫个不停，好像夏天永远不会结束。
研究人员发现，这种材料在零下四十度仍然保持弹性，因此可以用来制造极地考察所需的设备。
"""
CLASSICAL = "滚滚长江东逝水，浪花淘尽英雄。是非成败转头空，青山依旧在，几度夕阳红。白发渔樵江渚上，惯看秋月春风。"
TRADITIONAL = """\
清晨，老漁夫在碼頭慢慢地修一把舊椅子。鄰居問他：「您今年多大歲數了？」他笑著說：「記不清了，只記得那年下了很大的雪。」
第二天雨後，孩子們跑到河邊去看船，有的數著路過的船，有的給遠方的朋友寫信。誰也沒有想到，這把鑰匙會丟在松林裡！
茶館的老闆娘端來一壺熱茶，說城裡最近開了一家書店，裡面有許多關於歷史和地理的書。
妹妹把風箏線纏在手指上，跑得滿頭大汗；哥哥坐在石階上吹口哨，說等風再大一點才飛得起來。
「電話響了三遍，你怎麼不接？」「我在廚房切西瓜呢。」窗外的知了叫個不停，好像夏天永遠不會結束。
研究人員發現，這種材料在零下四十度仍然保持彈性，因此可以用來製造極地考察所需的設備。
"""
JAPANESE = """\
朝早く、年を取った漁師は港で古い椅子をゆっくり直していた。「おいくつですか」と隣の人が聞くと、彼は笑って答えた。
雨の後、子供たちは川へ船を見に行き、カメラで写真を撮ったり、遠くの友達に手紙を書いたりした。
駅前のコーヒーショップでは、若い店員がテーブルを拭きながらラジオのニュースを聞いている。
弟は凧の糸を指に巻いて走り回り、兄は石段に座って、もう少し風が強くなるのを待っていた。
「電話が三回も鳴ったのに、どうして出なかったの？」「台所でスイカを切っていたんだ。」
"""
KOREAN = """\
이른 아침 늙은 어부가 부두에서 낡은 의자를 천천히 고치고 있었다. 이웃이 나이를 묻자 그는 웃으며 대답했다.
비가 그친 뒤 아이들은 강가로 배를 보러 갔고, 먼 곳에 있는 친구에게 편지를 쓰기도 했다.
역 앞 찻집에서는 젊은 점원이 탁자를 닦으면서 라디오에서 나오는 소식을 듣고 있다.
동생은 연줄을 손가락에 감고 뛰어다녔고, 형은 돌계단에 앉아 바람이 더 세지기를 기다렸다.
"전화가 세 번이나 울렸는데 왜 안 받았어?" "부엌에서 수박을 자르고 있었거든."
"""
RUSSIAN = """\
Рано утром старый рыбак медленно чинил на пристани старый стул. Сосед спросил, сколько ему лет, и он засмеялся.
После дождя дети побежали к реке смотреть на лодки и писать письма далёким друзьям.
В чайной на углу хозяйка рассказывает, что в городе открылся магазин, где есть книги по истории и географии.
Младшая сестра бегает с воздушным змеем, а брат сидит на ступеньках и ждёт, когда ветер станет сильнее.
"Телефон звонил трижды, почему ты не подошёл?" Отец ответил: "Я резал на кухне арбуз". Цикады пели всё лето.
"""
UKRAINIAN = """\
Рано-вранці старий рибалка поволі лагодив на пристані стілець. Сусід запитав, скільки йому років, і він засміявся.
Після дощу діти побігли до річки дивитися на човни й писати листи далеким друзям, які живуть за горами.
У чайній на розі господиня розповідає, що в місті відкрили крамницю, де є книжки з історії та географії.
Менша сестра бігає з паперовим змієм, а брат сидить на сходах і чекає, доки вітер стане сильнішим.
"""
BULGARIAN = """\
Рано сутринта старият рибар поправяше на кея един стол. Съседът го попита на колко години е, а той само се засмя.
След дъжда децата изтичаха до реката да гледат лодките и да пишат писма на приятели, които живеят оттатък морето.
В чайната на ъгъла разказват, че са отворили книжарница – там има книги за история, география и малко поезия.
„Телефонът звъня три пъти, защо не вдигна?“ – „Режех диня в кухнята“, каза бащата. Щурците пееха цяло лято…
"""
FRENCH = """\
Tôt le matin, le vieux pêcheur réparait une chaise près du port. Son voisin lui demanda son âge, et il répondit.
Après la pluie, les élèves allèrent voir les bateaux à la rivière. « Où est la clé ? » L’été était passé.
Au café du coin, la patronne raconte qu’une librairie vient d’ouvrir ; on y trouve déjà des livres d’histoire.
La petite sœur court avec son cerf-volant ; le frère, assis sur les marches, espère que le vent forcira bientôt.
Le téléphone a sonné trois fois : pourquoi n’as-tu pas répondu ? Je coupais des pastèques, ça colle aux doigts.
"""
GERMAN = """\
Früh am Morgen saß der alte Fischer am Hafen und flickte für einen Nachbarn die Körbe. Er wußte nicht, wie alt
er war. Später gingen die Schüler über die Brücke, zählten die Schiffe und schrieben schöne Grüße.
In der Teestube erzählt die Wirtin, daß in der Straße ein Buchladen eröffnet hat; dort gibt es Bücher für Kinder.
Die kleine Schwester läuft mit dem Drachen, der Bruder hockt auf den Stufen und hofft auf kräftigeren Wind.
„Das Telefon hat dreimal geläutet!“ – „Ich war in der Küche und habe eine Melone zerschnitten.“
"""
SPANISH = """\
Por la mañana, el viejo pescador arreglaba una silla en el muelle. ¿Cuántos años tiene usted?, le preguntó el vecino.
Después de la lluvia, los niños corrieron al río a ver los barcos y a escribir cartas a sus amigos más lejanos.
En el café de la esquina, la dueña cuenta que abrió una librería; allí hay libros de historia y de geografía.
¡Qué pingüino tan pequeño!, gritó la niña. Su hermano esperaba en los peldaños a que soplara más el viento.
El teléfono sonó tres veces. Yo estaba en la cocina cortando una sandía, contestó mi papá, y así pasó el otoño.
"""
PORTUGUESE = """\
De manhã, o velho pescador consertava uma cadeira no cais. O vizinho perguntou-lhe a idade, e ele não soube responder.
Depois da chuva, as crianças foram ao rio ver as embarcações e escrever cartões aos amigos que estão além do mar.
No café da esquina, a dona conta que abriu uma livraria; lá há livros de história, de geografia e de ciências.
A irmã corre com o papagaio de papel, e o irmão, nos degraus, espera que o vento fique mais forte. É verão também.
O telefone tocou três vezes; por que não atendeste? Eu estava na cozinha a cortar melão, disse a avó às irmãs.
"""
ITALIAN = """\
La mattina presto il vecchio pescatore riparava una sedia sul molo. Il vicino gli chiese l’età, ma non la sapeva più.
Dopo la pioggia i bambini andarono al fiume a vedere le barche: perché non scrivere agli amici della città? Così fu.
Nel caffè all’angolo si racconta che aprirà una libreria; ci sono già libri di storia, e c’è anche un po’ di poesia.
La sorella correrà giù con l’aquilone, il fratello aspetta sui gradini: il vento è debole, però domani soffierà di più.
"""
SWEDISH = """\
Tidigt på morgonen lagade den gamle fiskaren en stol på kajen. Grannen frågade hur gammal han var, och då log han.
Efter regnet sprang barnen ner till ån för att se på båtarna och skriva brev till vänner på andra sidan havet.
På kaféet vid hörnet berättar värdinnan att en bokhandel har öppnat; där finns böcker för både små och stora.
Lillasyster springer med draken, och hennes bror sitter på trappan och väntar på att det ska börja blåsa mer.
"""
DANISH = """\
Tidligt om morgenen reparerede den gamle fisker en stol på kajen. Naboen spurgte, hvor gammel han var, og så lo han.
Efter regnen løb børnene ned til åen for at se på bådene og skrive breve til venner på den anden side af havet.
På caféen ved hjørnet fortæller værtinden, at der er åbnet en boghandel; dér findes bøger for både små og store.
Lillesøster løber med dragen, og hendes bror sidder på trappen og håber, at det snart blæser lidt mere.
"""
ICELANDIC = """\
Snemma um morguninn gerði gamli sjómaðurinn við stól á bryggjunni. Nágranninn spurði hvað hann væri orðinn gamall.
Eftir rigninguna hlupu börnin niður að ánni til að skoða bátana og skrifa bréf til vina sinna hinum megin við hafið.
Á kaffihúsinu við hornið segir konan að búið sé að opna bókabúð; þar fást bækur um sögu og landafræði, líka ljóð.
Litla systir hleypur með flugdrekann en bróðir hennar situr á tröppunum og bíður þess að það hvessi svolítið meira.
"""
ENGLISH = "Early in the morning, the old fisherman mended a chair on the quay. “How old are you?” a neighbour asked.\n"
GREEK = """\
Νωρίς το πρωί ο γέρος ψαράς διόρθωνε στην προβλήτα μια παλιά καρέκλα. Ο γείτονας τον ρώτησε πόσων χρονών είναι.
Μετά τη βροχή τα παιδιά έτρεξαν στο ποτάμι να δουν τις βάρκες και να γράψουν γράμματα σε φίλους που ζουν μακριά.
Στο καφενείο της γωνίας λένε ότι άνοιξε ένα βιβλιοπωλείο· εκεί βρίσκεις βιβλία για την ιστορία και τη γεωγραφία.
«Χτύπησε τρεις φορές το τηλέφωνο, γιατί δεν απάντησες;» «Έκοβα καρπούζι στην κουζίνα», είπε γελώντας ο Ανδρέας.
"""
ARABIC = """\
في الصباح الباكر كان الصياد العجوز يصلح كرسيا قديما على الرصيف. سأله جاره: كم عمرك؟ فضحك وقال إنه لا يتذكر ذلك.
بعد المطر ركض الأطفال إلى النهر ليشاهدوا القوارب، وكتب بعضهم رسائل إلى أصدقائهم الذين يسكنون وراء البحر.
في المقهى القريب تحكي صاحبته أن مكتبة جديدة فتحت أبوابها، وفيها كتب كثيرة عن التاريخ والجغرافيا والشعر.
رن الهاتف ثلاث مرات، لماذا لم تجب؟ كنت أقطع البطيخ في المطبخ، هكذا أجاب الأب مبتسما وهو ينظر إلى السماء.
"""
PERSIAN = """\
صبح زود ماهيگير پير روي اسکله صندلي کهنه‌اي را تعمير مي‌کرد. همسايه پرسيد چند سال داري؟ او خنديد و چيزي نگفت.
بعد از باران بچه‌ها به کنار رودخانه دويدند تا قايق‌ها را ببينند و براي دوستان دورشان نامه بنويسند.
در چايخانه گوشه خيابان مي‌گويند کتابفروشي تازه‌اي باز شده است که کتاب‌هاي تاريخ و جغرافيا و شعر دارد.
تلفن سه بار زنگ زد، چرا جواب ندادي؟ پدر گفت در آشپزخانه هندوانه مي‌بريدم و ژاله پنجره را باز کرد.
"""
HEBREW = """\
מוקדם בבוקר תיקן הדייג הזקן כיסא ישן על הרציף. השכן שאל אותו בן כמה הוא, והוא צחק ואמר שהוא כבר לא זוכר.
אחרי הגשם רצו הילדים אל הנהר לראות את הסירות ולכתוב מכתבים לחברים שגרים רחוק, מעבר לים ומעבר להרים.
בבית הקפה שבפינה מספרת בעלת הבית שנפתחה חנות ספרים חדשה, ויש בה ספרים על היסטוריה, גאוגרפיה ושירה.
הטלפון צלצל שלוש פעמים, למה לא ענית? חתכתי אבטיח במטבח, ענה אבא וחייך. הציקדות שרו כל הקיץ.
"""
TURKISH = """\
Sabah erkenden yaşlı balıkçı iskelede eski bir sandalyeyi onarıyordu. Komşusu kaç yaşında olduğunu sordu, o da güldü.
Yağmurdan sonra çocuklar kayıkları görmek için ırmağa koştular, uzaktaki arkadaşlarına da mektup yazdılar.
Köşedeki çay bahçesinde, yeni açılan kitapçıda tarih ve coğrafya üzerine pek çok kitap bulunduğunu söylüyorlar.
Telefon üç kez çaldı, niçin açmadın? Mutfakta karpuz kesiyordum, dedi babası. Ağustos böcekleri bütün yaz öttü.
"""
POLISH = """\
Wczesnym rankiem stary rybak naprawiał na przystani krzesło. Sąsiad spytał, ile ma lat, a on tylko się zaśmiał.
Po deszczu dzieci pobiegły nad rzekę oglądać łodzie i pisać listy do przyjaciół, którzy mieszkają za górami.
W herbaciarni na rogu gospodyni opowiada, że otwarto księgarnię; są tam książki o historii, geografii i poezje.
Młodsza siostra biega z latawcem, a brat siedzi na schodach i czeka, aż wiatr będzie silniejszy. Źle spał dziś w nocy.
Telefon dzwonił trzy razy, czemu nie odebrałaś? Kroiłam w kuchni arbuza, odparła babcia. Świerszcze grały do świtu.
"""
HUNGARIAN = """\
Kora reggel az öreg halász egy régi széket javított a mólón. A szomszéd megkérdezte, hány éves, ő pedig nevetett.
Eső után a gyerekek a folyóhoz szaladtak, hogy megnézzék a hajókat, és levelet írjanak távol élő barátaiknak.
A sarki teázóban azt mesélik, hogy könyvesbolt nyílt; történelmi és földrajzi könyvek is vannak benne bőven.
Háromszor csöngött a telefon, miért nem vetted föl? Dinnyét vágtam a konyhában, mondta az apja. Gyönyörű nyár volt.
"""
CZECH = """\
Brzy ráno starý rybář opravoval na molu židli. Soused se ho zeptal, kolik je mu let, a on se jen zasmál.
Po dešti běžely děti k řece podívat se na lodě a psát dopisy přátelům, kteří žijí daleko za horami.
V čajovně na rohu hospodyně vypráví, že otevřeli knihkupectví; jsou tam knížky o dějinách, zeměpise i poezie.
Menší sestra běhá s drakem, bratr sedí na schodech a čeká, až vítr zesílí. Kůň ťapal po cestě, ďábel nikde.
Telefon zvonil třikrát, proč jsi to nezvedl? Krájel jsem v kuchyni meloun, řekl otec. Šeřík kvetl celý květen.
"""
ROMANIAN = """\
Dis-de-dimineaţă bătrânul pescar repara pe ponton un scaun vechi. Vecinul l-a întrebat câţi ani are, iar el a râs.
După ploaie copiii au fugit la râu să vadă bărcile şi să scrie scrisori prietenilor care locuiesc peste munţi.
La ceainăria din colţ se povesteşte că s-a deschis o librărie; acolo găseşti cărţi de istorie, geografie şi poezie.
Telefonul a sunat de trei ori, de ce n-ai răspuns? Tăiam în bucătărie un pepene, a zis tata. Ştii că vara e lungă.
"""
LITHUANIAN = """\
Anksti rytą senas žvejys prieplaukoje taisė kėdę. Kaimynas paklausė, kiek jam metų, o jis tik nusijuokė.
Po lietaus vaikai nubėgo prie upės žiūrėti valčių ir rašyti laiškų draugams, kurie gyvena už jūros.
Arbatinėje ant kampo pasakojama, kad atidarytas knygynas; ten yra knygų apie istoriją, geografiją ir eilėraščių.
Telefonas skambėjo tris kartus, kodėl neatsiliepei? Pjausčiau virtuvėje arbūzą, atsakė tėvas. Šį kartą vėjas stiprus.
"""
LATVIAN = """\
Agri no rīta vecais zvejnieks piestātnē laboja krēslu. Kaimiņš pajautāja, cik viņam gadu, un viņš tikai pasmējās.
Pēc lietus bērni aizskrēja uz upi skatīties laivas un rakstīt vēstules draugiem, kuri dzīvo aiz jūras.
Tējnīcā uz stūra stāsta, ka atvērts grāmatu veikals; tur ir grāmatas par vēsturi, ģeogrāfiju un dzeju.
Tālrunis zvanīja trīs reizes, kāpēc neatbildēji? Es virtuvē griezu arbūzu, teica tēvs. Šoreiz vējš bija stiprāks.
"""
ESTONIAN = """\
Varahommikul parandas vana kalur muuli peal tooli. Naaber küsis, kui vana ta on, ja ta ainult naeris selle üle.
Pärast vihma jooksid lapsed jõe äärde paate vaatama ja kirjutama kirju sõpradele, kes elavad kaugel mägede taga.
Nurgapealses teemajas räägitakse, et avati raamatupood; seal on ajaloo ja geograafia raamatuid ning häid luuletusi.
Telefon helises kolm korda, miks sa ei võtnud? Lõikasin köögis arbuusi, ütles isa. Öösel tõusis tugev tuul.
"""
THAI = """\
เช้าตรู่ชาวประมงแก่ซ่อมเก้าอี้ตัวเก่าอยู่ที่ท่าเรือ เพื่อนบ้านถามว่าปีนี้อายุเท่าไรแล้ว เขาหัวเราะแล้วบอกว่าจำไม่ได้
หลังฝนตกเด็กๆ วิ่งไปที่ริมแม่น้ำเพื่อดูเรือ บางคนก็เขียนจดหมายถึงเพื่อนที่อยู่ไกลโพ้นทะเล
ที่ร้านน้ำชาตรงหัวมุม เจ้าของร้านเล่าว่ามีร้านหนังสือเปิดใหม่ มีหนังสือประวัติศาสตร์และภูมิศาสตร์มากมาย
โทรศัพท์ดังสามครั้ง ทำไมไม่รับสาย พ่อตอบว่ากำลังหั่นแตงโมอยู่ในครัว ปีนี้ฤดูร้อนยาวนานเหลือเกิน
"""
VIETNAMESE = """\
Sáng sớm, ông lão đánh cá ngồi sửa chiếc ghế cũ trên bến. Người hàng xóm hỏi ông bao nhiêu tuổi, ông chỉ cười.
Sau cơn mưa, bọn trẻ chạy ra bờ sông xem thuyền và viết thư cho những người bạn ở xa, bên kia dãy núi.
Ở quán trà đầu phố, bà chủ kể rằng vừa mở một hiệu sách; ở đó có nhiều sách về lịch sử, địa lý và thơ.
Điện thoại reo ba lần, sao con không nghe? Con đang bổ dưa hấu trong bếp, nó đáp. Ve sầu kêu suốt mùa hè.
"""
MOSTLY_ASCII = (
    'def count(boats):  # 数一数河边的船\n    return sum(boat.passes for boat in boats)\n\nprint("钥匙丢了")\n'
)
JSONL = '{"title": "清晨的码头", "id": 17, "content": "老渔夫在码头慢慢地修一把旧椅子。"}\n'
FIGURES = "2023年3月14日，共1,234,567人（增长5.6%）；——3.1415926……“0.5～0.7”！！？？\n"


def as_windows_writes(vietnamese):
    """With the five tones as characters of their own, after their vowels."""
    apart = re.sub("(.)(\u0323?)([\u0302\u0306\u031b])", r"\1\3\2", unicodedata.normalize("NFD", vietnamese))
    return re.sub(".[\u0302\u0306\u031b]", lambda found: unicodedata.normalize("NFC", found[0]), apart)


# {name of a text: (the text, its encodings)}
KINDS = {
    "simplified": (SIMPLIFIED, "utf-8 gb18030 utf-16-le utf-16-be"),
    "classical": (CLASSICAL, "utf-8 gb18030"),
    "records": (JSONL, "utf-8 gb18030"),
    "figures": (FIGURES, "utf-8 gb18030"),
    "code": (MOSTLY_ASCII, "utf-8 gb18030"),
    "traditional": (TRADITIONAL, "utf-8 gb18030 big5hkscs"),
    "japanese": (JAPANESE, "utf-8 cp932 euc_jp utf-16-le utf-16-be"),
    "korean": (KOREAN, "utf-8 cp949"),
    "english": (ENGLISH, "utf-8 cp1252 utf-16-le utf-16-be"),
    "french": (FRENCH, "utf-8 cp1252"),
    "german": (GERMAN, "utf-8 cp1252"),
    "spanish": (SPANISH, "utf-8 cp1252"),
    "portuguese": (PORTUGUESE, "utf-8 cp1252"),
    "italian": (ITALIAN, "cp1252"),
    "swedish": (SWEDISH, "cp1252"),
    "danish": (DANISH, "cp1252"),
    "icelandic": (ICELANDIC, "cp1252"),
    "russian": (RUSSIAN, "utf-8 cp1251 koi8-r cp866"),
    "ukrainian": (UKRAINIAN, "cp1251 koi8-u"),
    "bulgarian": (BULGARIAN, "cp1251"),
    "greek": (GREEK, "utf-8 cp1253 iso8859-7 utf-16-le"),
    "arabic": (ARABIC, "utf-8 cp1256 iso8859-6 utf-16-le"),
    "persian": (PERSIAN, "utf-8 cp1256"),
    "hebrew": (HEBREW, "utf-8 cp1255 utf-16-le"),
    "turkish": (TURKISH, "utf-8 cp1254"),
    "polish": (POLISH, "utf-8 cp1250 iso8859-2"),
    "hungarian": (HUNGARIAN, "cp1250 iso8859-2"),
    "czech": (CZECH, "utf-8 cp1250 iso8859-2"),
    "romanian": (ROMANIAN, "cp1250 iso8859-2"),
    "lithuanian": (LITHUANIAN, "utf-8 cp1257"),
    "latvian": (LATVIAN, "cp1257"),
    "estonian": (ESTONIAN, "cp1257"),
    "thai": (THAI, "utf-8 cp874 utf-16-le"),
    "vietnamese": (as_windows_writes(VIETNAMESE), "utf-8 cp1258"),
}
CASES = [(name, text, encoding) for name, (text, encodings) in KINDS.items() for encoding in encodings.split()]


def cut(text, encoding, size):
    """The bytes of the first characters of a text, `size` at most."""
    return text.encode(encoding)[:size].decode(encoding, "ignore").encode(encoding)


def damaged(data, encoding, rng):
    """The bytes of a text, mostly with some of them replaced, lost, or torn off its ends."""
    kind, broken = rng.choice(["whole", "replaced", "lost", "torn"]), bytearray(data)
    size = 2 if encoding.startswith("utf-16") else 1  # One byte less would make it text in the other byte order.
    if kind == "torn":
        return data[rng.choice([0, size]) : len(data) - rng.choice([1, 2])]
    for _ in range(0 if kind == "whole" else rng.randint(1, 3 + len(data) // 5000)):
        place = rng.randrange(len(broken))
        if kind == "replaced":
            broken[place] = rng.choice([0xFF, 0x80, rng.randrange(256)])
        else:
            del broken[place : place + size]
    return bytes(broken)


def judge(text, encoding, data):
    """What is to be said against the guess at `data`. text: the same bytes before they were broken."""
    guesses = guess([data[i : i + SAMPLE] for i in range(0, len(data), SAMPLE)])
    first, second = (name is not None and text.decode(name, "mark") == text.decode(encoding) for name in guesses)
    doubted = first and guesses[1] is not None
    return collections.Counter(cases=1, wrong=not first, silent=not (first or second), doubted=doubted)


def count(text, encoding, n_texts, n_prompts, longest=1_000_000, seed=0):
    """(counts of `judge` for texts of 1 KB to `longest` bytes, and for prompts of 12 to 300 bytes)."""
    texts, prompts, rng = collections.Counter(), collections.Counter(), random.Random(f"{text}{encoding}{seed}")
    lines = text.splitlines(keepends=True)
    for _ in range(n_texts):
        size = int(1000 * (longest / 1000) ** rng.random())
        whole = cut("".join(rng.choices(lines, k=1 + size // min(map(len, lines)))), encoding, size)
        texts.update(judge(whole, encoding, damaged(whole, encoding, rng)))
    for _ in range(n_prompts):
        start = rng.randrange(len(text))
        prompt = cut(text[start:] + text * 4, encoding, rng.randint(12, 300))
        prompts.update(judge(prompt, encoding, prompt))
    return texts, prompts


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=260, help="of each kind, 1 KB to 1 MB long [260]")
    parser.add_argument("--prompts", type=int, default=440, help="of each kind, 12 to 300 bytes long [440]")
    parser.add_argument("--only", default="", help="kinds with this in their names [all]")
    parser.add_argument("--seed", type=int, default=0, help="of the cases [0]")
    args = parser.parse_args(argv)
    keys = ("cases", "wrong", "silent", "doubted")
    print(f"{'':24}" + "".join(f"{name:>9}" for name in ("texts", *keys[1:], "prompts", *keys[1:])))
    total = [collections.Counter(), collections.Counter()]
    for name, text, encoding in CASES:
        if args.only in f"{name} {encoding}":
            found = count(text, encoding, args.texts, args.prompts, seed=args.seed)
            total = [whole + part for whole, part in zip(total, found, strict=True)]
            report(f"{name} {encoding}", found, keys)
    report("together", total, keys)


def report(name, found, keys):
    print(f"{name:24}" + "".join(f"{counts[key]:9,}" for counts in found for key in keys), flush=True)


if __name__ == "__main__":
    main()
