package synthetic

const (
	loinc    = "http://loinc.org"
	ucum     = "http://unitsofmeasure.org"
	icd10    = "http://fhir.de/CodeSystem/bfarm/icd-10-gm"
	atc      = "http://fhir.de/CodeSystem/bfarm/atc"
	insurers = "http://fhir.de/sid/arge-ik/iknr"
	insured  = "http://fhir.de/sid/gkv/kvid-10"
	charts   = "urn:chartmesh:synthetic:patient-number"
	hl7      = "http://terminology.hl7.org/CodeSystem/"
)

type diagnosis struct{ code, text string }

var chronic = []diagnosis{
	{"I10.90", "Essentielle Hypertonie, nicht näher bezeichnet"},
	{"E11.90", "Diabetes mellitus, Typ 2, ohne Komplikationen"},
	{"E78.0", "Reine Hypercholesterinämie"},
	{"E03.9", "Hypothyreose, nicht näher bezeichnet"},
	{"J45.9", "Asthma bronchiale, nicht näher bezeichnet"},
	{"M17.9", "Gonarthrose, nicht näher bezeichnet"},
	{"K21.0", "Gastroösophageale Refluxkrankheit mit Ösophagitis"},
	{"G43.9", "Migräne, nicht näher bezeichnet"},
	{"F32.1", "Mittelgradige depressive Episode"},
}

var acute = []diagnosis{
	{"J06.9", "Akute Infektion der oberen Atemwege"},
	{"M54.5", "Kreuzschmerz"},
	{"N39.0", "Harnwegsinfektion, Lokalisation nicht näher bezeichnet"},
	{"A09.9", "Sonstige und nicht näher bezeichnete Gastroenteritis"},
	{"H66.9", "Otitis media, nicht näher bezeichnet"},
	{"L20.9", "Atopisches [endogenes] Ekzem, nicht näher bezeichnet"},
	{"S93.4", "Verstauchung und Zerrung des oberen Sprunggelenkes"},
}

type drug struct {
	code, text  string
	dose, unit  string // the digits of a dose, and its unit
	scheme      string // morning, noon, evening, night
	quantity    string // of a package
	ingredients string
}

var longTerm = []drug{
	{"C09AA05", "Ramipril 5 mg Tabletten", "5.0", "mg", "1-0-0-0", "100", "Ramipril"},
	{"A10BA02", "Metformin 850 mg Filmtabletten", "850", "mg", "1-0-1-0", "180", "Metforminhydrochlorid"},
	{"C10AA01", "Simvastatin 20 mg Filmtabletten", "20", "mg", "0-0-0-1", "100", "Simvastatin"},
	{"H03AA01", "Levothyroxin 62,5 µg Tabletten", "62.50", "ug", "1-0-0-0", "98", "Levothyroxin-Natrium"},
	{"R03AC02", "Salbutamol Dosieraerosol 0,1 mg", "0.10", "mg", "1-1-1-1", "1", "Salbutamolsulfat"},
	{"A02BC02", "Pantoprazol 40 mg magensaftresistent", "40.0", "mg", "1-0-0-0", "56", "Pantoprazol-Natrium"},
	{"C07AB02", "Metoprololsuccinat 47,5 mg retard", "47.5", "mg", "1-0-½-0", "100", "Metoprololsuccinat"},
}

var shortTerm = []drug{
	{"M01AE01", "Ibuprofen 600 mg Filmtabletten", "600", "mg", "1-0-1-0", "20", "Ibuprofen"},
	{"J01CA04", "Amoxicillin 1000 mg Tabletten", "1000", "mg", "1-1-1-0", "21", "Amoxicillin-Trihydrat"},
	{"N02BB02", "Metamizol Tropfen 500 mg/ml", "500", "mg", "1-1-1-1", "50", "Metamizol-Natrium"},
}

type vaccine struct{ code, text string }

var vaccines = []vaccine{
	{"J07BB02", "Influenza-Impfstoff, inaktiviert"},
	{"J07AM51", "Tetanus-Diphtherie-Impfstoff"},
	{"J07AL02", "Pneumokokken-Konjugatimpfstoff"},
	{"J07BA01", "FSME-Impfstoff"},
}

var allergies = []struct{ substance, category, reaction string }{
	{"Penicillin", "medication", "Urtikaria"},
	{"Birkenpollen", "environment", "Rhinokonjunktivitis"},
	{"Erdnüsse", "food", "Anaphylaxie"},
	{"Acetylsalicylsäure", "medication", "Bronchospasmus"},
	{"Hausstaubmilben", "environment", "Asthma"},
}

// measured is a kind of finding: its value is mean ± spread hundredths, shown with digits behind the point.
type measured struct {
	code, text, unit, category string
	mean, spread, digits       int
	low, high                  string
}

var vitals = []measured{
	{"8310-5", "Körpertemperatur", "Cel", "vital-signs", 3690, 120, 2, "36.00", "37.50"},
	{"29463-7", "Körpergewicht", "kg", "vital-signs", 7850, 2200, 1, "", ""},
	{"8302-2", "Körpergröße", "cm", "vital-signs", 17000, 1400, 1, "", ""},
	{"8867-4", "Herzfrequenz", "/min", "vital-signs", 7400, 1800, 0, "60", "100"},
	{"2708-6", "Sauerstoffsättigung", "%", "vital-signs", 9700, 200, 1, "95.0", "100.0"},
}

var laboratory = []measured{
	{"4548-4", "Hämoglobin A1c", "%", "laboratory", 610, 130, 1, "4.0", "6.0"},
	{"2160-0", "Kreatinin", "mg/dL", "laboratory", 95, 30, 2, "0.50", "1.20"},
	{"14749-6", "Glukose", "mmol/L", "laboratory", 560, 150, 2, "3.90", "5.60"},
	{"3016-3", "Thyreotropin", "m[IU]/L", "laboratory", 210, 120, 2, "0.40", "4.00"},
	{"13457-7", "LDL-Cholesterin, berechnet", "mg/dL", "laboratory", 12800, 4000, 0, "", "130"},
}

// charge is a position of a private invoice: its number and its price in cents.
type charge struct {
	code, text string
	cents      int
}

var charges = []charge{
	{"1", "Beratung", 1072},
	{"5", "Symptombezogene Untersuchung", 1072},
	{"7", "Vollständige körperliche Untersuchung", 2145},
	{"250", "Blutentnahme mittels Spritze", 420},
	{"651", "Elektrokardiographische Untersuchung", 2653},
	{"75", "Ausführlicher schriftlicher Krankheitsbericht", 1743},
}

var remarks = []string{
	"Patient fühlt sich besser, Kontrolle in 3 Monaten.",
	"Überweisung zum Facharzt besprochen; möchte abwarten.",
	"Blutdruck zu Hause um 130/80, Tagebuch mitgebracht.",
	"Nebenwirkungen verneint. Rezept verlängert.",
	"Verband gewechselt, Wunde reizlos.\nFäden am Freitag ziehen.",
	"Prière de rappeler la fille, elle traduit.",
}
