package synthetic

// people is a language's share of the patients: names that are common there, and places to live. Nobody in particular
// bears them.
type people struct {
	country, language string
	female, male      []string
	family            []string
	streets           []string
	cities            []city
}

type city struct{ code, name string }

var peoples = []people{
	{
		country: "DE", language: "de",
		female:  []string{"Anneliese", "Käthe", "Jördis", "Gönül", "Änne", "Ursula", "Liesbeth", "Mareike", "Friederike", "Zoë"},
		male:    []string{"Jürgen", "Götz", "Sönke", "Günther", "Matthäus", "Heinz-Jörg", "Torben", "Björn", "Uwe", "Lüder"},
		family:  []string{"Müller", "Weiß", "Großkopf", "Schröder-Äpfelbach", "Köhler", "Krüger", "Böhm", "Özdemir", "Straßner", "von der Mühlen", "Dörflinger", "Jäger", "Hübner", "Mueller"},
		streets: []string{"Lindenstraße", "Am Mühlbach", "Große Gasse", "Käthe-Kollwitz-Weg", "Schützenplatz", "Hölderlinallee"},
		cities:  []city{{"50667", "Köln"}, {"80331", "München"}, {"20095", "Hamburg"}, {"99084", "Erfurt"}, {"48143", "Münster"}, {"97070", "Würzburg"}},
	},
	{
		country: "AT", language: "de",
		female:  []string{"Resi", "Nadja", "Hermine", "Kreszentia", "Leni"},
		male:    []string{"Xaver", "Poldi", "Ägidius", "Franz", "Kálmán"},
		family:  []string{"Höllwarth", "Prödl", "Šimek", "Wögerbauer", "Grünauer", "Brändle"},
		streets: []string{"Färbergasse", "Untere Hauptstraße", "Mönchsberg"},
		cities:  []city{{"1070", "Wien"}, {"8010", "Graz"}, {"3100", "St. Pölten"}},
	},
	{
		country: "FR", language: "fr",
		female:  []string{"Chloé", "Hélène", "Maëlys", "Françoise", "Noémie", "Cœurélie"},
		male:    []string{"François", "Anaël", "Benoît", "Gaël", "Jérôme", "René"},
		family:  []string{"Lefèvre", "Gagné", "d'Aubigné", "Lacroix-Bœuf", "Rousseau", "Châtelain", "Béranger"},
		streets: []string{"rue de l'Église", "allée des Érables", "impasse du Château"},
		cities:  []city{{"67000", "Strasbourg"}, {"57200", "Sarreguemines"}, {"68000", "Colmar"}},
	},
	{
		country: "IT", language: "it",
		female:  []string{"Niccolina", "Mercè", "Giulia", "Letizia", "Fiorella"},
		male:    []string{"Niccolò", "Giosuè", "Raffaele", "Dante", "Mosè"},
		family:  []string{"D'Àngelo", "Cantù", "Lo Prèsti", "Fumagalli", "De Nicolò", "Mondelli"},
		streets: []string{"via della Libertà", "piazza dell'Unità", "vicolo Più"},
		cities:  []city{{"39100", "Bolzano"}, {"38122", "Trento"}, {"24122", "Bergamo"}},
	},
	{
		country: "PL", language: "pl",
		female:  []string{"Małgorzata", "Świętosława", "Żaneta", "Łucja", "Bożena", "Agnieszka"},
		male:    []string{"Łukasz", "Paweł", "Grzegorz", "Święcisław", "Błażej", "Michał"},
		family:  []string{"Wójcik", "Dąbrowska", "Źródłowski", "Kołodziej", "Gołębiewska", "Szczęsny", "Żak"},
		streets: []string{"ul. Źródlana", "al. Jana Łaskiego", "ul. Świętojańska"},
		cities:  []city{{"50-062", "Wrocław"}, {"90-001", "Łódź"}, {"66-400", "Gorzów Wielkopolski"}},
	},
	{
		country: "CZ", language: "cs",
		female:  []string{"Zdeňka", "Růžena", "Jiřina", "Květa", "Šárka"},
		male:    []string{"Jiří", "Ondřej", "Čeněk", "Luboš", "Tomáš"},
		family:  []string{"Dvořáková", "Kučera", "Říha", "Šťastný", "Průša", "Ježková"},
		streets: []string{"Žižkova", "Na Příkopě", "U Vodojemu"},
		cities:  []city{{"400 01", "Ústí nad Labem"}, {"360 01", "Karlovy Vary"}, {"602 00", "Brno"}},
	},
	{
		country: "DK", language: "da",
		female:  []string{"Søs", "Åse", "Kirstine", "Bodil", "Ærlinde"},
		male:    []string{"Søren", "Åge", "Jørgen", "Bjørn", "Mads"},
		family:  []string{"Møllegaard", "Ågesen", "Kjær", "Østerby", "Lindtofte"},
		streets: []string{"Ærøvej", "Nørregade", "Ågade"},
		cities:  []city{{"6200", "Aabenraa"}, {"6400", "Sønderborg"}, {"6100", "Haderslev"}},
	},
	{
		country: "GR", language: "el",
		female:  []string{"Ελένη", "Δήμητρα", "Χρυσούλα"},
		male:    []string{"Γιώργος", "Αλέξανδρος", "Στέφανος"},
		family:  []string{"Παπαδοπούλου", "Καραγιάννη", "Ξενάκης"},
		streets: []string{"Οδός Ερμού", "Λεωφόρος Ειρήνης"},
		cities:  []city{{"546 24", "Θεσσαλονίκη"}, {"262 21", "Πάτρα"}},
	},
	{
		country: "TR", language: "tr",
		female:  []string{"Ayşe", "Gülşen", "Çiğdem", "İpek"},
		male:    []string{"Oğuz", "Çağlar", "İsmail", "Şükrü"},
		family:  []string{"Yıldırım", "Çelik", "Güneş", "Işıkoğlu", "Şahin"},
		streets: []string{"Çınar Sokağı", "Atatürk Bulvarı"},
		cities:  []city{{"34730", "İstanbul"}, {"35210", "İzmir"}},
	},
}
