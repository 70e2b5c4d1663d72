"""The words of the synthetic catalogs: topics, what is in them, and the names of circles.

Only words live here; what they are used for is said in `simulations/worlds/domains.py`. All of them were written for this
project; names of companies, clinics and schools are invented.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# Topic: (kinds of things, what they are like, what they are for).
Topics = Mapping[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]]

TOPICS: Final[Topics] = {
    "gardening": (
        ("trowel", "watering can", "seed tray", "pruning shears", "compost bin", "planter"),
        ("galvanized", "terracotta", "rust-proof", "raised-bed"),
        ("growing tomatoes", "herb beds", "rose pruning", "spring sowing"),
    ),
    "cycling": (
        ("bicycle pump", "saddle", "chain tool", "handlebar tape", "helmet", "pannier"),
        ("lightweight", "road-race", "gravel", "reflective"),
        ("commuting by bike", "long tours", "steep climbs", "puncture repair"),
    ),
    "baking": (
        ("bread tin", "whisk", "dough scraper", "proofing basket", "cake stand", "rolling pin"),
        ("non-stick", "ceramic", "beechwood", "oven-safe"),
        ("sourdough loaves", "layer cakes", "pastry", "birthday biscuits"),
    ),
    "astronomy": (
        ("telescope", "star chart", "eyepiece", "tripod", "red torch", "planisphere"),
        ("wide-field", "achromatic", "equatorial", "night-sky"),
        ("watching planets", "meteor showers", "deep-sky galaxies", "lunar craters"),
    ),
    "sewing": (
        ("fabric scissors", "thread set", "pin cushion", "quilting ruler", "bobbin case", "thimble"),
        ("cotton", "embroidered", "vintage", "self-healing"),
        ("patchwork quilts", "dressmaking", "hemming curtains", "mending denim"),
    ),
    "fishing": (
        ("fishing rod", "reel", "landing net", "lure box", "waders", "bait bucket"),
        ("carbon-fiber", "saltwater", "telescopic", "fly-casting"),
        ("river trout", "pike season", "sea angling", "ice fishing"),
    ),
    "photography": (
        ("camera lens", "light meter", "flash diffuser", "film roll", "camera strap", "photo album"),
        ("wide-aperture", "black-and-white", "macro", "portrait"),
        ("street portraits", "wildlife close-ups", "darkroom printing", "studio lighting"),
    ),
    "camping": (
        ("tent", "sleeping bag", "camp stove", "lantern", "hammock", "water filter"),
        ("ultralight", "four-season", "waterproof", "packable"),
        ("mountain nights", "family campsites", "backpacking trails", "winter bivouacs"),
    ),
    "music": (
        ("guitar", "metronome", "violin bow", "drum pad", "music stand", "harmonica"),
        ("acoustic", "rosewood", "electric", "concert"),
        ("blues practice", "orchestra rehearsal", "songwriting", "rhythm training"),
    ),
    "painting": (
        ("easel", "watercolor set", "paint brush", "sketchbook", "palette knife", "canvas"),
        ("oil", "acrylic", "fine-grain", "pigmented"),
        ("landscape studies", "still life", "figure drawing", "mural work"),
    ),
    "chemistry": (
        ("beaker", "pipette", "test tube rack", "Bunsen burner", "pH strips", "lab goggles"),
        ("borosilicate", "graduated", "acid-resistant", "analytical"),
        ("titration", "school experiments", "crystal growing", "solution mixing"),
    ),
    "pets": (
        ("dog leash", "cat tree", "aquarium filter", "bird feeder", "pet brush", "chew toy"),
        ("padded", "scratch-proof", "washable", "silent"),
        ("puppy training", "indoor cats", "tropical fish", "grooming long coats"),
    ),
}

MAKERS: Final = (
    "Falcon", "Walnut", "Comet", "Harbor", "Velvet", "Granite", "Juniper", "Cobalt", "Lantern", "Mistral",
    "Otter", "Prairie", "Quartz", "Raven", "Saffron", "Thunder", "Umbra", "Violet", "Willow", "Zephyr",
    "Anchor", "Bison", "Cedar", "Dune", "Ember", "Fjord", "Glacier", "Heron", "Indigo", "Jasper",
    "Kestrel", "Lotus", "Maple", "Nimbus", "Opal", "Pelican", "Quiver", "Ruby", "Sparrow", "Tundra",
    "Ursa", "Vesper", "Wren", "Yarrow", "Amber", "Birch", "Coral", "Delta", "Elm", "Fern",
)  # fmt: skip

GOODS: Final[Topics] = {
    "kitchen": (
        ("saucepan", "chopping board", "kettle", "storage jar", "mixing bowl", "grater"),
        ("stainless steel", "bamboo", "enameled", "borosilicate glass"),
        ("everyday cooking", "weekend brunch", "small kitchens", "meal preparation"),
    ),
    "furniture": (
        ("bookcase", "armchair", "bedside table", "desk", "coat rack", "stool"),
        ("solid oak", "walnut veneer", "powder-coated steel", "birch plywood"),
        ("narrow hallways", "reading corners", "the home office", "a guest room"),
    ),
    "clothing": (
        ("rain jacket", "cardigan", "scarf", "work shirt", "socks", "trousers"),
        ("merino wool", "organic cotton", "linen", "recycled polyester"),
        ("cold mornings", "long journeys", "the office", "summer evenings"),
    ),
    "electronics": (
        ("headphones", "phone charger", "keyboard", "portable speaker", "webcam", "power bank"),
        ("aluminum", "matte black", "silicone", "noise-canceling"),
        ("video calls", "travel by train", "music at home", "two devices at once"),
    ),
    "toys": (
        ("building blocks", "board game", "puzzle", "plush animal", "marble run", "toy train"),
        ("beechwood", "cardboard", "felt", "painted wood"),
        ("rainy afternoons", "first birthdays", "family evenings", "quiet play"),
    ),
    "garden": (
        ("trowel", "watering can", "seed tray", "planter", "garden hose", "bird bath"),
        ("terracotta", "galvanized steel", "hardwood", "recycled plastic"),
        ("balcony herbs", "raised beds", "rose pruning", "spring sowing"),
    ),
    "sports": (
        ("yoga mat", "jump rope", "water bottle", "dumbbell", "swim goggles", "running belt"),
        ("natural rubber", "cast iron", "neoprene", "cork"),
        ("home workouts", "half marathons", "open water", "stretching"),
    ),
    "bathroom": (
        ("bath towel", "soap dish", "shower curtain", "laundry basket", "mirror", "bath mat"),
        ("waffle cotton", "stoneware", "rattan", "diatomite"),
        ("small bathrooms", "guests", "soft drying", "tidy shelves"),
    ),
    "stationery": (
        ("notebook", "fountain pen", "desk calendar", "folder", "ruler", "paper tray"),
        ("brass", "kraft paper", "leather", "acrylic"),
        ("meeting notes", "letter writing", "school days", "sketching ideas"),
    ),
    "tools": (
        ("screwdriver set", "tape measure", "work lamp", "hammer", "spirit level", "tool box"),
        ("chrome vanadium", "ash wood", "fiberglass", "hardened steel"),
        ("hanging shelves", "bicycle repair", "first apartments", "renovation"),
    ),
}

# Median price of a topic, in the catalog's currency.
PRICES: Final = {
    "kitchen": 24.0,
    "furniture": 140.0,
    "clothing": 45.0,
    "electronics": 60.0,
    "toys": 22.0,
    "garden": 18.0,
    "sports": 26.0,
    "bathroom": 20.0,
    "stationery": 9.0,
    "tools": 32.0,
}

STORIES: Final[Topics] = {
    "politics": (
        ("interview", "report", "debate", "analysis"),
        ("exclusive", "long", "critical"),
        ("the budget vote", "a coalition in trouble", "the city election", "a new constitution"),
    ),
    "climate": (
        ("explainer", "report", "documentary", "data story"),
        ("illustrated", "sober", "global"),
        ("melting ice", "heat in cities", "the price of carbon", "vanishing wetlands"),
    ),
    "football": (
        ("match report", "portrait", "highlights", "podcast"),
        ("breathless", "tactical", "weekly"),
        ("the derby", "a young striker", "the cup final", "a coach's last season"),
    ),
    "cinema": (
        ("review", "trailer talk", "portrait", "essay"),
        ("spoiler-free", "nostalgic", "witty"),
        ("a debut thriller", "silent comedies", "the festival winner", "an animated epic"),
    ),
    "food": (
        ("recipe video", "market visit", "column", "tasting"),
        ("seasonal", "quick", "hearty"),
        ("winter soups", "street noodles", "plain bread", "orchard desserts"),
    ),
    "technology": (
        ("test", "explainer", "interview", "live blog"),
        ("skeptical", "hands-on", "detailed"),
        ("foldable phones", "open-source maps", "chip factories", "home robots"),
    ),
    "travel": (
        ("travelogue", "photo series", "guide", "video diary"),
        ("slow", "low-cost", "scenic"),
        ("night trains", "mountain huts", "an island in winter", "old harbor towns"),
    ),
    "music": (
        ("session video", "review", "oral history", "playlist"),
        ("live", "intimate", "loud"),
        ("a string quartet", "basement clubs", "a lost tape", "the summer festival"),
    ),
    "science": (
        ("feature", "animation", "lecture", "news brief"),
        ("careful", "surprising", "short"),
        ("deep-sea life", "gene editing", "a comet's return", "sleep and memory"),
    ),
    "economy": (
        ("column", "chart story", "report", "interview"),
        ("sharp", "patient", "regional"),
        ("rising rents", "a strike at the port", "family firms", "the price of bread"),
    ),
    "games": (
        ("play-through", "review", "developer diary", "tournament report"),
        ("relaxed", "competitive", "first-look"),
        ("a puzzle classic", "online chess", "a pixel adventure", "racing at night"),
    ),
    "health": (
        ("guide", "expert talk", "myth check", "training video"),
        ("practical", "calm", "evidence-based"),
        ("back pain at desks", "better sleep", "running after forty", "pollen season"),
    ),
}

# A story runs for some days; the next one takes over from it.
STORY_NAMES: Final = (
    "Harbor Inquiry", "Glacier Expedition", "Northern Line", "Velvet Trial", "Copper Strike", "Lighthouse Letters",
    "Orchard Affair", "Silver Marathon", "Dune Festival", "Paper Bridge", "Falcon Rescue", "Midnight Census",
    "Amber Archive", "Canal Renewal", "Thunder Cup", "Winter Embassy", "Cedar Verdict", "Blue Reservoir",
    "Station Nine", "Coral Survey", "Meadow Ballot", "Iron Choir", "Volcano Watch", "Old Mint Robbery",
    "Sparrow Count", "Granite Games", "River Accord", "Lantern March", "Tundra Railway", "Opera House Fire",
    "Salt Road", "Comet Season", "Island Referendum", "Tower Auction", "Fjord Rescue", "Market Hall",
    "Desert Array", "Violin Case", "Prairie Summit", "Clockmaker Case", "Monsoon Diary", "Quartz Merger",
    "Heron Reserve", "Border Orchestra", "Peninsula Storm", "Walnut Treaty", "Observatory Hill", "Delta Harvest",
    "Zephyr Launch", "Museum Return",
)  # fmt: skip

FINANCE: Final[Topics] = {
    "current accounts": (
        ("current account", "joint account", "account with a card"),
        ("free", "basic", "all-inclusive"),
        ("salaries", "daily payments", "couples"),
    ),
    "savings": (
        ("savings account", "fixed deposit", "savings plan"),
        ("instant-access", "one-year", "five-year"),
        ("rainy days", "a first reserve", "a larger purchase"),
    ),
    "cards": (
        ("credit card", "debit card", "prepaid card"),
        ("no-fee", "premium", "virtual"),
        ("travel abroad", "online shopping", "monthly spending"),
    ),
    "student finance": (
        ("student loan", "starter account", "tuition plan"),
        ("low-interest", "deferred", "flexible"),
        ("studies", "a semester abroad", "vocational training"),
    ),
    "home loans": (
        ("mortgage", "building loan", "renovation loan"),
        ("fixed-rate", "variable-rate", "ten-year"),
        ("a first home", "a larger home", "insulation"),
    ),
    "family insurance": (
        ("term life insurance", "liability insurance", "household insurance"),
        ("family", "extended", "basic"),
        ("parents of small children", "homeowners", "the main earner"),
    ),
    "funds": (
        ("index fund", "bond fund", "mixed fund"),
        ("global", "low-cost", "sustainable"),
        ("long horizons", "monthly savings", "cautious investors"),
    ),
    "retirement": (
        ("pension plan", "annuity", "withdrawal plan"),
        ("guaranteed", "tax-advantaged", "flexible"),
        ("early planning", "the last working years", "a steady income"),
    ),
}

LIFE_STAGES: Final = {
    "in education": ("student finance", "current accounts", "cards"),
    "first job": ("current accounts", "cards", "savings"),
    "family": ("home loans", "family insurance", "savings"),
    "established": ("funds", "family insurance", "savings"),
    "retiring": ("retirement", "funds", "savings"),
}

BANKS: Final = (
    "Northgate", "Alder", "Meridian", "Stonebridge", "Larkfield", "Union Quay", "Castell", "Fairwater", "Keystone",
    "Brookmere", "Highfield", "Trident",
)  # fmt: skip

MEDICINE: Final[Topics] = {
    "cardiology": (
        ("consultation", "information leaflet", "check-up", "aftercare course"),
        ("initial", "follow-up", "specialist"),
        ("high blood pressure", "irregular heartbeat", "chest discomfort", "recovery after a heart attack"),
    ),
    "orthopedics": (
        ("consultation", "exercise guide", "examination", "rehabilitation plan"),
        ("initial", "follow-up", "specialist"),
        ("knee pain", "hip replacement", "a fractured wrist", "lower back pain"),
    ),
    "dermatology": (
        ("consultation", "information leaflet", "skin check", "treatment plan"),
        ("initial", "follow-up", "specialist"),
        ("eczema", "changes in a mole", "psoriasis", "persistent acne"),
    ),
    "neurology": (
        ("consultation", "information leaflet", "examination", "symptom diary"),
        ("initial", "follow-up", "specialist"),
        ("migraine", "dizziness", "numbness in the hands", "recovery after a stroke"),
    ),
    "pediatrics": (
        ("consultation", "guide for parents", "check-up", "vaccination appointment"),
        ("initial", "follow-up", "routine"),
        ("fever in children", "growth and development", "childhood asthma", "feeding problems"),
    ),
    "mental health": (
        ("consultation", "information leaflet", "group session", "self-help guide"),
        ("initial", "follow-up", "confidential"),
        ("persistent low mood", "anxiety", "sleep problems", "stress at work"),
    ),
    "diabetes care": (
        ("consultation", "nutrition course", "check-up", "monitoring plan"),
        ("initial", "follow-up", "annual"),
        ("type 2 diabetes", "blood sugar control", "foot care", "diabetes in pregnancy"),
    ),
    "ophthalmology": (
        ("consultation", "information leaflet", "eye examination", "aftercare guide"),
        ("initial", "follow-up", "specialist"),
        ("cataract", "glaucoma", "dry eyes", "sudden changes in vision"),
    ),
    "allergy and lungs": (
        ("consultation", "information leaflet", "lung function test", "inhaler training"),
        ("initial", "follow-up", "specialist"),
        ("hay fever", "asthma", "food allergy", "a chronic cough"),
    ),
    "digestive health": (
        ("consultation", "nutrition guide", "examination", "screening appointment"),
        ("initial", "follow-up", "routine"),
        ("reflux", "irritable bowel", "bowel cancer screening", "celiac disease"),
    ),
}

CLINICS: Final = (
    "Linden", "Rosewood", "Hillside", "Lakeside", "Saint Anna", "Birchfield", "Riverside", "Ashgrove", "Old Town",
    "Westpark", "Seaview", "Elmhurst", "Saint Luke", "Northfield", "Millbrook", "Oakdale", "Parkway", "Hazelwood",
    "Bayview", "Greenbank",
)  # fmt: skip

COURSES: Final[Topics] = {
    "mathematics": (
        ("course", "seminar", "problem class"),
        ("proof-based", "applied", "blended"),
        ("linear algebra", "calculus", "probability", "number theory"),
    ),
    "programming": (
        ("course", "lab", "project"),
        ("hands-on", "project-based", "self-paced"),
        ("Python", "databases", "web development", "algorithms"),
    ),
    "physics": (
        ("course", "lab", "lecture series"),
        ("experimental", "mathematical", "blended"),
        ("mechanics", "electricity", "optics", "thermodynamics"),
    ),
    "biology": (
        ("course", "lab", "field course"),
        ("illustrated", "research-based", "blended"),
        ("cell biology", "genetics", "ecology", "human anatomy"),
    ),
    "languages": (
        ("course", "conversation class", "tandem"),
        ("intensive", "evening", "self-paced"),
        ("Spanish", "Mandarin", "Arabic", "academic English"),
    ),
    "history": (
        ("course", "seminar", "reading group"),
        ("source-based", "survey", "comparative"),
        ("antiquity", "the Middle Ages", "industrialization", "the twentieth century"),
    ),
    "economics": (
        ("course", "seminar", "case class"),
        ("quantitative", "policy-oriented", "blended"),
        ("markets", "money and banking", "game theory", "development"),
    ),
    "arts": (
        ("studio", "course", "workshop"),
        ("practical", "critical", "evening"),
        ("drawing", "music theory", "film", "graphic design"),
    ),
    "statistics": (
        ("course", "lab", "workshop"),
        ("applied", "computational", "self-paced"),
        ("regression", "survey methods", "Bayesian inference", "data visualization"),
    ),
    "education studies": (
        ("course", "seminar", "placement"),
        ("reflective", "practical", "blended"),
        ("classroom teaching", "learning psychology", "assessment", "inclusive schools"),
    ),
}

TRACKS: Final = (
    "Ada", "Curie", "Noether", "Euler", "Humboldt", "Kepler", "Franklin", "Darwin", "Goethe", "Austen", "Herschel",
    "Laplace", "Mendel", "Newton", "Ockham", "Pascal", "Quine", "Rousseau", "Sappho", "Tagore", "Turing", "Voltaire",
    "Woolf", "Zeno",
)  # fmt: skip
