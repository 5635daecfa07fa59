
"$bulkhead" status || [ $? -eq 5 ]
