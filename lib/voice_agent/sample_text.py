"""The words that the sample data are made of; no code, no randomness.

Words in curly braces are slots that `voice_agent.sample_data` fills with one of the values that
`SLOTS` has under that name. Lists of words are one string each, parted by ``|``.
"""

from __future__ import annotations

__all__ = [
    "CORPORA",
    "DIALOGUES",
    "DOCUMENT_KINDS",
    "FIRST_NAMES",
    "LAST_NAMES",
    "LOCALES",
    "SENTENCES",
    "SLOTS",
    "VOICES",
]

FIRST_NAMES = (
    "Aisha|Alejandro|Amélie|André|Anna|Björn|Carlos|Chloé|Daniel|David|Elena|Emily|Emma|Eva|"
    "Fatima|Félix|Grace|Hannah|Hugo|Inés|Isabel|Jack|James|Jürgen|João|José|Julia|Kaito|Karin|"
    "Laura|Léa|Liam|Lucía|Luis|Lukas|Magda|Maria|Mateo|Mei|Michael|Mohammed|Nadia|Noah|Nora|Olga|"
    "Oliver|Oscar|Paul|Petra|Priya|Rafael|René|Rosa|Samuel|Sara|Sean|Simone|Sofía|Søren|Thomas|"
    "Tomás|Victoria|William|Yuki|Zoë|Łukasz"
)
LAST_NAMES = (
    "Andersson|Bauer|Becker|Berg|Bianchi|Brown|Castro|Clark|Cohen|Costa|Díaz|Dubois|Evans|"
    "Fernández|Fischer|Fontaine|Fuentes|García|Gómez|González|Gruber|Haddad|Hansen|Hoffmann|Ito|"
    "Jackson|Jansen|Johnson|Jones|Kaya|Khan|Kim|Klein|Kowalski|Lambert|Lee|Lefèvre|López|Martin|"
    "Martínez|Meyer|Møller|Moreau|Müller|Murphy|Nakamura|Nguyen|Novák|O'Brien|Okafor|Oliveira|"
    "Patel|Pereira|Pérez|Petrov|Ramírez|Rossi|Russo|Sánchez|Santos|Schmidt|Schneider|Silva|Singh|"
    "Smith|Suárez|Tanaka|Taylor|Thompson|Torres|Tran|Vargas|Vogel|Wagner|Walker|Weber|White|"
    "Williams|Wilson|Wójcik|Wong|Wright|Yılmaz|Young|Zhang|Zimmermann"
)
LOCALES = (("en-US", 46), ("en-GB", 18), ("de-DE", 16), ("es-ES", 12), ("fr-FR", 5), ("pt-BR", 3))
"""With how many of a hundred users have them."""
VOICES = "alto|aria|baritone|cedar|marin|sage|tenor"

SLOTS = {
    "city": (
        "Barcelona|Berlin|Boston|Bristol|Chicago|Denver|Dublin|Hamburg|Leeds|Lisbon|Lyon|Madrid|"
        "Munich|Oslo|Portland|Seattle|Sevilla|Toronto|Valencia|Vienna"
    ),
    "day": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday",
    "tag": "Montag|Dienstag|Mittwoch|Donnerstag|Freitag|Samstag",
    "dia": "lunes|martes|miércoles|jueves|viernes|sábado",
    "time": "8:30|9:15|10:00|11:45|13:20|14:00|15:30|16:45|17:10|18:00",
    "number": (
        "20417|20796|21175|21554|21933|22312|22691|23070|23449|23828|24207|24586|24965|25344|"
        "25723|26102|26481|26860|27239|27618|27997|28376|28755|29134"
    ),
    "amount": "12.50|19.99|24.00|38.75|49.90|64.20|87.15|120.00|219.40",
    "product": (
        "Aurora thermostat|Beacon doorbell|Cascade water filter|Drift robot cleaner|"
        "Ember radiator valve|Fjord freezer|Glide standing desk|Harbor router|Iris camera|"
        "Juniper speaker|Kestrel drone|Lumen lamp"
    ),
    "part": ("battery|filter|hinge|sensor|display|antenna|motor|gasket|fuse|cable|bracket|pump"),
    "minutes": "2|3|5|8|10|15|20|25|30|45",
    "months": "3|6|12|18|24|36",
    "percent": "5|10|15|20|25|40|60|75|80|90",
    "team": (
        "the support team|the warehouse|the finance office|the regional partner|"
        "the on-call engineer|the customer's own technician|the returns desk|the product group"
    ),
    "colour": "red|amber|green|blue|white|violet",
}

# (language, what the session was about, turns). Odd turns are the user's, even ones the agent's.
DIALOGUES = (
    (
        "en",
        "Asked where order {number} is",
        (
            "Hi, where is my order {number}?",
            "It left our warehouse in {city} and should reach you on {day}.",
            "Could it come after {time}? I'm not at home before.",
            "I have asked the courier to come after {time} on {day}. You will get a message.",
            "Perfect, thank you.",
            "You're welcome. Have a good day!",
        ),
    ),
    (
        "en",
        "Booked an appointment in {city}",
        (
            "I'd like an appointment in {city} on {day}, please.",
            "On {day} I have {time} free in {city}. Shall I book it?",
            "Yes, {time} is fine.",
            "Done. Your appointment is on {day} at {time}; the number is {number}.",
            "Can I bring my old one along?",
            "Yes, we take old devices back free of charge.",
        ),
    ),
    (
        "en",
        "Disputed a charge of {amount}",
        (
            "There's a charge of {amount} on my account that I don't recognise.",
            "I see it: {amount}, invoice {number}, for the {product}. Is that not yours?",
            "No, I sent the {product} back on {day}.",
            "Then I will open a case. You should have the {amount} back by {day}.",
            "How will I know?",
            "We write to you as soon as case {number} is closed.",
        ),
    ),
    (
        "en",
        "The {product} shows a {colour} light",
        (
            "My {product} keeps blinking {colour}. What does it want?",
            "A {colour} light means that the {part} needs attention. Have you restarted it?",
            "Twice. It comes back after {minutes} minutes.",
            "Then the {part} is worn. It is under warranty, so I can send you a new one.",
            "Please do.",
            "It is on its way; the reference is {number}.",
        ),
    ),
    (
        "en",
        "Cancelled the plan of {amount}",
        (
            "I want to cancel my subscription.",
            "I can do that. You have paid {amount} until {day}; it would end then. Is that right?",
            "Yes, and please don't renew it.",
            "It is cancelled and will not renew. Your confirmation is {number}.",
            "Thanks, bye.",
            "Goodbye, and you can come back at any time.",
        ),
    ),
    (
        "en",
        "Asked for a warranty of {months} months",
        (
            "how long is the warranty on the {product}",
            "It is {months} months from the day of purchase, for all parts but the {part}.",
            "and the {part}?",
            "The {part} is covered for {months} months when it was changed by {team}.",
            "ok",
            "Is there anything else I can do for you?",
        ),
    ),
    (
        "de",
        "Termin in {city}",
        (
            "Guten Tag, ich hätte gern am {tag} einen Termin in {city}.",
            "Am {tag} um {time} Uhr ist in {city} noch etwas frei. Soll ich es eintragen?",
            "Ja bitte, {time} Uhr passt gut.",
            "Erledigt. Ihre Terminnummer ist {number}.",
            "Vielen Dank für die schnelle Hilfe!",
            "Sehr gerne. Auf Wiederhören!",
        ),
    ),
    (
        "es",
        "Pedido {number}",
        (
            "Hola, ¿dónde está mi pedido {number}?",
            "Salió de {city} y debería llegar el {dia}.",
            "¿Puede ser después de las {time}?",
            "Sí, he avisado al mensajero: el {dia} a partir de las {time}.",
            "Muchas gracias.",
            "A usted. ¡Que tenga un buen día!",
        ),
    ),
)

CORPORA = (
    ("Product manuals", "What our devices do, and how they are set up"),
    ("Support articles", "Answers to what customers ask most"),
    ("Company policies", "Returns, warranty and data protection"),
    ("Release notes", "What changed in each version"),
    ("Field reports", "What technicians found on site"),
    ("Training material", "For new colleagues"),
)
DOCUMENT_KINDS = (
    "installation guide|maintenance plan|known problems|quick start|return procedure|"
    "safety notes|spare parts|technical data|warranty terms|firmware notes"
)
SENTENCES = (
    "Before the {part} is opened, the {product} must be off for at least {minutes} minutes.",
    "A steady {colour} light means that the {product} is ready; a blinking one asks for {team}.",
    "In {percent} percent of the cases that we saw in {city}, cleaning the {part} was enough.",
    "The {part} lasts about {months} months and is not covered by the warranty after that.",
    "If the {product} does not answer, hold its button until it turns {colour}.",
    "Returns are accepted within {months} months when {team} has confirmed the serial number.",
    "Each visit on a {day} is announced by {team}, with a window of {minutes} minutes.",
    "The price of a replacement {part} is {amount}, which includes the delivery to {city}.",
    "Store the {part} dry and below {percent} percent humidity; it must never be frozen.",
    "Since the last release the {product} saves up to {percent} percent of energy at night.",
    "Write the reference {number} on the parcel, so that {team} can find the order.",
    "When two devices share one network, the {product} waits {minutes} minutes and tries again.",
    "The {product} keeps its settings without power for {months} months.",
    "Ask {team} in {city} for a loan device if the repair takes longer than {minutes} days.",
    "Tighten the {part} by hand only: tools damaged it in {percent} percent of all complaints.",
    "From {time} on {day}, {team} answers by telephone; at other times leave a message.",
)
